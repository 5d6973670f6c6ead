//! A chat: what is given, planned, asked.

use std::ffi::{CString, c_char, c_void};
use std::sync::Mutex;

use super::answer::lt_answer;
use super::call::{call, give, given, lock, lt_status, place, quietly, take_back, text};
use super::progress::{Listener, lt_progress_fn};
use crate::{Cancel, Chat, Error, Frames, Result};

/// A chat. One call at a time may use it, from any thread; one more meanwhile is told `LT_BUSY`. `lt_chat_cancel` and
/// `lt_chat_resume` may be called at any time. It may be freed while an answer of it is read on.
pub struct lt_chat {
    state: Mutex<State>,
    cancel: Cancel,
}

struct State {
    /// There unless a call panicked.
    chat: Option<Chat>,
    /// Lines of the last plan.
    reduced: CString,
}

/// What a question takes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lt_cost {
    /// Tokens of media.
    pub n_tokens: u64,
    /// Slots of the context.
    pub n_ctx: u64,
    /// Frames of all videos.
    pub n_frames: u64,
    /// Bytes in all; those of weights, of the cache and of working memory. Zeros behind the first question of a chat, whose
    /// memory stays what it is.
    pub memory: u64,
    /// See `memory`.
    pub weights: u64,
    /// See `memory`.
    pub cache: u64,
    /// See `memory`.
    pub working: u64,
    /// Seconds until the first word; below 0 where it was not worth measuring.
    pub seconds: f64,
    /// What was made smaller to fit, in lines; empty where nothing was. Good until the next plan of the chat, or its end.
    pub reduced: *const c_char,
}

impl lt_chat {
    /// # Errors
    /// Options that make no sense.
    pub(super) fn new(mut chat: Chat) -> Result<lt_chat> {
        chat.check()?;
        let cancel = chat.cancel();
        Ok(lt_chat { state: Mutex::new(State { chat: Some(chat), reduced: CString::default() }), cancel })
    }

    /// Changes the chat.
    fn change(&self, change: impl FnOnce(Chat) -> Chat) -> Result<lt_status> {
        let mut state = lock(&self.state, "chat")?;
        let chat = state.chat.take().ok_or_else(|| Error::internal("the chat is gone"))?;
        let chat = state.chat.insert(change(chat));
        chat.check().map(|()| lt_status::LT_OK)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Chat) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state, "chat")?;
        work(state.chat.as_mut().ok_or_else(|| Error::internal("the chat is gone"))?)
    }
}

/// Begins with a system prompt; comes before all else.
///
/// # Safety
/// `chat` is one that is not freed; `words` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_system(chat: *const lt_chat, words: *const c_char) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, words) = (given(chat, "chat")?, text(words, "words")?);
        chat.change(|chat| chat.system(words))
    })
}

/// Adds words to the next question, between media.
///
/// # Safety
/// As `lt_chat_system`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_text(chat: *const lt_chat, words: *const c_char) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, words) = (given(chat, "chat")?, text(words, "words")?);
        chat.change(|chat| chat.text(words))
    })
}

/// Adds a video to the next question: a file, a folder of frames, or a `data:` URL. It is opened by the next plan or question,
/// which tells what is wrong with it.
///
/// # Safety
/// As `lt_chat_system`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_video(chat: *const lt_chat, path: *const c_char) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, path) = (given(chat, "chat")?, text(path, "path")?);
        chat.change(|chat| chat.video(path))
    })
}

/// Adds a picture likewise.
///
/// # Safety
/// As `lt_chat_system`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_picture(chat: *const lt_chat, path: *const c_char) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, path) = (given(chat, "chat")?, text(path, "path")?);
        chat.change(|chat| chat.picture(path))
    })
}

/// Adds `n` frames from memory as a video, `fps` of which were taken in a second: `rgb` has `n * height * width * 3` bytes, rows
/// from top to bottom of red, green and blue, without gaps. They are copied, to a private file for temporary data.
///
/// # Safety
/// `chat` is one that is not freed; `rgb` is good for reading that many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_frames(
    chat: *const lt_chat,
    rgb: *const u8,
    n: u32,
    width: u32,
    height: u32,
    fps: f64,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let chat = given(chat, "chat")?;
        given(rgb, "rgb")?;
        // Sizes are checked before anything is read.
        let mut frames = Frames::new(n as usize, (width as usize, height as usize), fps)?;
        let n_bytes = 3 * width as usize * height as usize;
        for i in 0..n as usize {
            frames.push(std::slice::from_raw_parts(rgb.add(i * n_bytes), n_bytes))?;
        }
        chat.change(|chat| chat.frames(frames))
    })
}

/// Has `progress` told of each step from now on, in place of who was told before; null tells nobody. `user` is what it is given.
///
/// # Safety
/// `chat` is one that is not freed; `progress` may be called with `user` until another takes its place or the chat and its
/// answers are freed, on each thread that makes calls with them. It must return: no exception and no `longjmp` leaves it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_on_progress(
    chat: *const lt_chat,
    progress: lt_progress_fn,
    user: *mut c_void,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let chat = given(chat, "chat")?;
        let (listener, cancel) = (Listener::new(progress, user), chat.cancel.clone());
        chat.change(|chat| match listener {
            Some(listener) => chat.on_event(move |event| listener.tell(&event, &cancel)),
            None => chat.on_event(|_| {}),
        })
    })
}

/// Tells what the question would take, and reads nothing of any medium. `question` may be empty, not null.
///
/// # Safety
/// `chat` is one that is not freed; `question` ends with a zero byte; `cost` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_plan(chat: *const lt_chat, question: *const c_char, cost: *mut lt_cost) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, question, place) = (given(chat, "chat")?, text(question, "question")?, place(cost, "cost")?);
        let mut state = lock(&chat.state, "chat")?;
        let plan = state.chat.as_mut().ok_or_else(|| Error::internal("the chat is gone"))?.plan(question)?;
        state.reduced = CString::new(plan.cost.reduced.join("\n").replace('\0', "")).unwrap_or_default();
        place.write(lt_cost {
            n_tokens: plan.cost.n_tokens as u64,
            n_ctx: plan.cost.n_ctx as u64,
            n_frames: plan.media.iter().map(|medium| medium.n_frames as u64).sum(),
            memory: plan.cost.memory(),
            weights: plan.cost.weights,
            cache: plan.cost.cache,
            working: plan.cost.working,
            seconds: plan.cost.seconds.map_or(-1.0, |seconds| seconds.total()),
            reduced: state.reduced.as_ptr(),
        });
        Ok(lt_status::LT_OK)
    })
}

/// Reads what was given and the question, and begins to answer; what comes to stand in `*answer` is read with `lt_answer_next`.
/// Reading takes as long as it takes: progress tells of it, `lt_chat_cancel` stops it. Where it fails, the question did not
/// happen, and what was given waits for the next one. `LT_BUSY` while an answer of this chat is neither over nor freed.
///
/// # Safety
/// `chat` is one that is not freed; `question` ends with a zero byte; `answer` is good for writing a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_ask(
    chat: *const lt_chat,
    question: *const c_char,
    answer: *mut *mut lt_answer,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (chat, question, place) = (given(chat, "chat")?, text(question, "question")?, place(answer, "answer")?);
        Ok(give(place, lt_answer::new(chat.with(|chat| chat.ask(question))?)))
    })
}

/// Stops what the chat does, from any thread: the call that works ends with `LT_CANCELLED` at the next step, and so does every
/// later one until `lt_chat_resume`. Twice is once. Null is nothing.
///
/// # Safety
/// `chat` is null or one that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_cancel(chat: *const lt_chat) {
    // SAFETY: the caller's promise.
    quietly(|| unsafe { chat.as_ref() }.into_iter().for_each(|chat| chat.cancel.cancel()));
}

/// Lets a chat that was stopped go on.
///
/// # Safety
/// `chat` is null or one that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_resume(chat: *const lt_chat) {
    // SAFETY: the caller's promise.
    quietly(|| unsafe { chat.as_ref() }.into_iter().for_each(|chat| chat.cancel.clear()));
}

/// Ends a chat; an answer of it can be read on. Null is nothing.
///
/// # Safety
/// `chat` is null, or came from `lt_chat_new` or `lt_chat_about`, is freed once, and no other call uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_free(chat: *mut lt_chat) {
    // SAFETY: the caller's promise.
    unsafe { take_back(chat) }
}
