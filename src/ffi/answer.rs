//! An answer, piece by piece.

use std::ffi::c_char;
use std::sync::Mutex;

use super::call::{call, give_list, given, lock, lt_status, place, take_back};
use crate::Answer;
use crate::stream::{Finish, Looked, LookedMedium, LookedPair, MediaKind};

/// An answer that comes piece by piece. One call at a time may use it, from any thread; one more meanwhile is told `LT_BUSY`.
pub struct lt_answer(Mutex<State>);

struct State {
    answer: Answer,
    /// The last piece and a zero byte; it grows to the longest piece and is used again.
    piece: Vec<u8>,
}

/// Why an answer ended.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lt_finish {
    /// It has not ended, or a failure ended it.
    LT_NOT_FINISHED = 0,
    /// The model ended it.
    LT_FINISH_STOP = 1,
    /// It is as long as `max_tokens` or the context allows.
    LT_FINISH_LENGTH = 2,
    /// `lt_answer_stop` was called.
    LT_FINISH_CALLER = 3,
}

/// What an answer took until now.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lt_usage {
    /// Tokens of the chat with its media.
    pub prompt_tokens: u64,
    /// So many of them had been read before.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
    /// Seconds of reading.
    pub prompt_seconds: f64,
    /// Seconds of answering.
    pub answer_seconds: f64,
    /// Why it ended.
    pub finish: lt_finish,
}

/// Where the tokens of an answer looked until now: shares of all their attention, which make 1. The README says what they prove.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lt_looked {
    /// Tokens over which shares are means; 0, as all shares are then, where `look` of `lt_options` asked for none.
    pub n_tokens: u64,
    /// Pictures and frames.
    pub media: f64,
    /// Words, but for the first token.
    pub words: f64,
    /// The first token, where attention goes that has nowhere else to go.
    pub first_token: f64,
    /// The answer itself.
    pub answer: f64,
}

/// A picture or a frame pair that was looked at.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lt_look {
    /// Which medium of the chat, counted from 0.
    pub item: u32,
    /// Which frame pair of a video, counted from 0; 0 for a picture.
    pub pair: u32,
    /// Seconds: when the first frame of the pair is shown, and when the next pair begins; both 0 for a picture.
    pub from: f64,
    /// See `from`.
    pub to: f64,
    /// Its share of all attention.
    pub share: f64,
    /// The share of the words that tell its time, where there are any; it is one of `words`.
    pub stamp: f64,
}

impl lt_answer {
    pub(super) fn new(answer: Answer) -> lt_answer {
        lt_answer(Mutex::new(State { answer, piece: Vec::new() }))
    }
}

/// Waits for the next piece: `LT_OK` with text of whole characters in UTF-8 behind `*piece`, which ends with a zero byte and is
/// good until the next call with the answer; `LT_END`, with an empty piece, when it is over, however often it is asked. `length`
/// may be null and is then not told: bytes of the piece, should it hold a zero byte.
///
/// # Safety
/// `answer` is one that is not freed; `piece` is good for writing a pointer, `length` is, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_next(
    answer: *const lt_answer,
    piece: *mut *const c_char,
    length: *mut usize,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (place, answer) = (place(piece, "piece")?, given(answer, "answer")?);
        place.write(c"".as_ptr());
        if let Some(length) = length.as_mut() {
            *length = 0;
        }
        let mut state = lock(&answer.0, "answer")?;
        let State { answer, piece } = &mut *state;
        let Some(next) = answer.next().transpose()? else { return Ok(lt_status::LT_END) };
        piece.clear();
        piece.extend_from_slice(next.as_bytes());
        piece.push(0);
        place.write(piece.as_ptr().cast());
        if let Some(length) = length.as_mut() {
            *length = next.len();
        }
        Ok(lt_status::LT_OK)
    })
}

/// Ends an answer after the piece that came last: the next one is `LT_END`, and the chat can be asked again.
///
/// # Safety
/// `answer` is one that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_stop(answer: *const lt_answer) -> lt_status {
    // SAFETY: the caller's promise.
    call(|| unsafe {
        lock(&given(answer, "answer")?.0, "answer")?.answer.stop();
        Ok(lt_status::LT_OK)
    })
}

/// What it took until now.
///
/// # Safety
/// `answer` is one that is not freed; `usage` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_usage(answer: *const lt_answer, usage: *mut lt_usage) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (place, answer) = (place(usage, "usage")?, given(answer, "answer")?);
        let state = lock(&answer.0, "answer")?;
        let usage = state.answer.usage();
        place.write(lt_usage {
            prompt_tokens: usage.prompt_tokens as u64,
            cached_tokens: usage.cached_tokens as u64,
            completion_tokens: usage.completion_tokens as u64,
            prompt_seconds: usage.prompt_time.as_secs_f64(),
            answer_seconds: usage.answer_time.as_secs_f64(),
            finish: match state.answer.finish() {
                None => lt_finish::LT_NOT_FINISHED,
                Some(Finish::Stop) => lt_finish::LT_FINISH_STOP,
                Some(Finish::Length) => lt_finish::LT_FINISH_LENGTH,
                Some(Finish::Caller) => lt_finish::LT_FINISH_CALLER,
            },
        });
        Ok(lt_status::LT_OK)
    })
}

/// The tokens until now: at most `room` of them are copied to `tokens`, and `*n` becomes how many there are. `tokens` may be null
/// where `room` is 0.
///
/// # Safety
/// `answer` is one that is not freed; `tokens` is good for writing `room` numbers, `n` for writing one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_tokens(
    answer: *const lt_answer,
    tokens: *mut u32,
    room: usize,
    n: *mut usize,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let state = lock(&given(answer, "answer")?.0, "answer")?;
        give_list(state.answer.tokens(), (tokens, "tokens"), room, n)?;
        Ok(lt_status::LT_OK)
    })
}

/// Where its tokens looked until now. `*looked` becomes the whole; at most `room` pictures and frame pairs are copied to `looks`, in
/// the order of the chat, and `*n` becomes how many there are. `looked` may be null, and `looks` where `room` is 0.
///
/// # Safety
/// `answer` is one that is not freed; `looked` is null or good for writing, `looks` is for `room` of them, `n` for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_looked(
    answer: *const lt_answer,
    looked: *mut lt_looked,
    looks: *mut lt_look,
    room: usize,
    n: *mut usize,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let seen = lock(&given(answer, "answer")?.0, "answer")?.answer.looked();
        give_list(&seen.as_ref().map(each_look).unwrap_or_default(), (looks, "looks"), room, n)?;
        if !looked.is_null() {
            place(looked, "looked")?.write(seen.as_ref().map_or(lt_looked::NONE, lt_looked::of));
        }
        Ok(lt_status::LT_OK)
    })
}

impl lt_looked {
    const NONE: lt_looked = lt_looked { n_tokens: 0, media: 0.0, words: 0.0, first_token: 0.0, answer: 0.0 };

    fn of(seen: &Looked) -> lt_looked {
        let &Looked { n_tokens, words, first: first_token, answer, .. } = seen;
        lt_looked { n_tokens: n_tokens as u64, media: seen.of_media(), words, first_token, answer }
    }
}

/// Every picture and frame pair, in the order of the chat.
fn each_look(looked: &Looked) -> Vec<lt_look> {
    let of = |(item, medium): (usize, &LookedMedium)| -> Vec<lt_look> {
        let item = item as u32;
        if medium.kind == MediaKind::Image {
            return vec![lt_look { item, pair: 0, from: 0.0, to: 0.0, share: medium.share, stamp: 0.0 }];
        }
        let pair = |(pair, &LookedPair { from, to, share, stamp, .. }): (usize, &LookedPair)| lt_look {
            item,
            pair: pair as u32,
            from,
            to,
            share,
            stamp,
        };
        medium.pairs.iter().enumerate().map(pair).collect()
    };
    looked.media.iter().enumerate().flat_map(of).collect()
}

/// Ends an answer, whether it is over or not; what came until then is what was answered. Null is nothing.
///
/// # Safety
/// `answer` is null, or came from `lt_chat_ask`, is freed once, and no other call uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_answer_free(answer: *mut lt_answer) {
    // SAFETY: the caller's promise.
    unsafe { take_back(answer) }
}
