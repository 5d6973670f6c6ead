//! A model, and what is begun with it: chats and takes.

use std::ffi::{CString, c_char, c_void};

use super::call::{call, give, given, lt_status, place, take_back, text};
use super::chat::lt_chat;
use super::options::lt_options;
use super::progress::{Listener, lt_progress_fn};
use crate::api::TAKE_RESERVE;
use crate::{Cancel, ChatOptions, Longtake, OpenOptions, Result};

/// A model that is ready to talk. Any number of threads may use it at the same time; chats keep what they need of it.
pub struct lt_model {
    longtake: Longtake,
    /// Of chats that are given none.
    options: ChatOptions,
    /// Whether these say what is kept for questions and answers.
    has_reserve: bool,
    warnings: CString,
}

/// What `lt_watch` did.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct lt_watched {
    /// Tokens in the take.
    pub n_tokens: u64,
    /// So many of them were there before.
    pub n_before: u64,
}

/// Opens the model file `path`, and the projector beside it unless `options` names another. `options` may be null. Free what
/// comes to stand in `*model` with `lt_model_free`.
///
/// # Safety
/// `path` ends with a zero byte; `options` is null or as its description says; `model` is good for writing a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_open(
    path: *const c_char,
    options: *const lt_options,
    model: *mut *mut lt_model,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let place = place(model, "model")?;
        let path = text(path, "path")?;
        let (open, options, has_reserve) = read(options)?;
        Ok(give(place, lt_model::new(Longtake::open_with(path, open)?, options, has_reserve)))
    })
}

/// Opens the small model that the library carries, which knows eight shapes in eight colours: what examples and tests use.
/// `LT_UNSUPPORTED` in a library that was built without it.
///
/// # Safety
/// As `lt_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_open_demo(options: *const lt_options, model: *mut *mut lt_model) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let place = place(model, "model")?;
        let (open, options, has_reserve) = read(options)?;
        Ok(give(place, lt_model::new(demo(open)?, options, has_reserve)))
    })
}

#[cfg(feature = "demo")]
fn demo(options: OpenOptions) -> Result<Longtake> {
    Longtake::demo_with(options)
}

#[cfg(not(feature = "demo"))]
fn demo(_: OpenOptions) -> Result<Longtake> {
    Err(crate::Error::unsupported("this library carries no model: it was built without the feature `demo`"))
}

/// # Safety
/// That of [`lt_options::read`].
unsafe fn read(options: *const lt_options) -> Result<(OpenOptions, ChatOptions, bool)> {
    // SAFETY: the caller's promise.
    match unsafe { lt_options::read(options) }? {
        None => Ok(Default::default()),
        Some(options) => {
            // The whole of memory is kept by the model; a chat of it has what others leave.
            Ok((options.open()?, ChatOptions { max_memory: None, ..options.chat()? }, options.reserve != 0))
        }
    }
}

impl lt_model {
    fn new(longtake: Longtake, options: ChatOptions, has_reserve: bool) -> lt_model {
        let lines: String = longtake.warnings().iter().map(|line| format!("{line}\n")).collect();
        let warnings = CString::new(lines.replace('\0', "")).unwrap_or_default();
        lt_model { longtake, options, has_reserve, warnings }
    }

    /// Those that are given, else the model's, and whether they say what is kept for questions and answers.
    ///
    /// # Safety
    /// That of [`lt_options::read`].
    unsafe fn options(&self, given: *const lt_options) -> Result<(ChatOptions, bool)> {
        // SAFETY: the caller's promise.
        match unsafe { lt_options::read(given) }? {
            None => Ok((self.options.clone(), self.has_reserve)),
            Some(given) => Ok((given.chat()?, given.reserve != 0)),
        }
    }
}

/// What a user should know of the model although it is no error, in lines; empty, mostly. Good until the model is freed; null
/// for a null pointer.
///
/// # Safety
/// `model` is null or one that is not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_model_warnings(model: *const lt_model) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { model.as_ref() }.map_or(std::ptr::null(), |model| model.warnings.as_ptr())
}

/// Ends the caller's use of a model; chats of it go on. Null is nothing.
///
/// # Safety
/// `model` is null, or came from `lt_open` or `lt_open_demo`, is freed once, and no other call uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_model_free(model: *mut lt_model) {
    // SAFETY: the caller's promise.
    unsafe { take_back(model) }
}

/// Begins a chat, with the model's options where `options` is null. Free what comes to stand in `*chat` with `lt_chat_free`.
///
/// # Safety
/// `model` is one that is not freed; `options` is null or as its description says; `chat` is good for writing a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_new(
    model: *const lt_model,
    options: *const lt_options,
    chat: *mut *mut lt_chat,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (place, model) = (place(chat, "chat")?, given(model, "model")?);
        let (options, _) = model.options(options)?;
        lt_chat::new(model.longtake.chat().options(options)).map(|chat| give(place, chat))
    })
}

/// Begins a chat about the video of the take file `take`, which is not read again.
///
/// # Safety
/// As `lt_chat_new`; `take` ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_chat_about(
    model: *const lt_model,
    take: *const c_char,
    options: *const lt_options,
    chat: *mut *mut lt_chat,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let (place, model) = (place(chat, "chat")?, given(model, "model")?);
        let (options, _) = model.options(options)?;
        let take = text(take, "take")?;
        lt_chat::new(model.longtake.chat_about(take)?.options(options)).map(|chat| give(place, chat))
    })
}

/// Watches the file `video` once, into the take file `take`, so that questions about it are answered at once from then on. One
/// that is unfinished is gone on with, one that is complete and of the same left as it is. `options` may be null; `progress` may
/// be, too, and is given `user`; `watched` may be.
///
/// # Safety
/// `model` is one that is not freed; strings end with a zero byte; `options` is null or as its description says; `progress` may
/// be called with `user` during the call, on its thread; `watched` is null or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lt_watch(
    model: *const lt_model,
    video: *const c_char,
    take: *const c_char,
    options: *const lt_options,
    progress: lt_progress_fn,
    user: *mut c_void,
    watched: *mut lt_watched,
) -> lt_status {
    // SAFETY: the caller's promises.
    call(|| unsafe {
        let model = given(model, "model")?;
        let (video, take) = (text(video, "video")?, text(take, "take")?);
        let mut watching = model.longtake.watch(video);
        // Takes keep more room for questions than chats, unless told otherwise.
        let (mut options, has_reserve) = model.options(options)?;
        if !has_reserve {
            options.reserve = TAKE_RESERVE;
        }
        watching = watching.options(options);
        if let Some(listener) = Listener::new(progress, user) {
            let cancel: Cancel = watching.cancel();
            watching = watching.on_event(move |event| listener.tell(&event, &cancel));
        }
        let done = watching.into_take(take)?;
        if !watched.is_null() {
            let (n_tokens, n_before) = (done.n_tokens as u64, done.n_before as u64);
            place(watched, "watched")?.write(lt_watched { n_tokens, n_before });
        }
        Ok(lt_status::LT_OK)
    })
}

/// Makes an error of what is otherwise the end of the process: a mapped model or take file that somebody cuts short. It takes
/// over SIGBUS and SIGXFSZ and hands on what is not its own, so call it once, after the program has set its own handlers.
/// `no_mmap` of `lt_options` is the other way out, for models.
#[unsafe(no_mangle)]
pub extern "C" fn lt_catch_file_signals() -> lt_status {
    call(|| crate::gguf::catch_file_signals().map(|()| lt_status::LT_OK))
}
