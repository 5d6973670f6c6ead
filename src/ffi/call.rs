//! What every call has in common: statuses, words for errors, panics that end here, pointers that are looked at first.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::{Error, ErrorKind, Result};

/// How a call ended. Everything above `LT_END` is a failure, of which `lt_error` has the words.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lt_status {
    /// Done.
    LT_OK = 0,
    /// There is nothing more to come; only `lt_answer_next` says so.
    LT_END = 1,
    /// The system refused: a disk is full, a file may not be read.
    LT_IO = 2,
    /// A file is missing.
    LT_NOT_FOUND = 3,
    /// A file is not what its format says it should be.
    LT_FORMAT = 4,
    /// Well-formed, but outside of what the library can do.
    LT_UNSUPPORTED = 5,
    /// Beyond a cap or a limit: the context, memory, time.
    LT_LIMIT = 6,
    /// Two things that must agree do not.
    LT_MISMATCH = 7,
    /// A call that makes no sense: a null pointer, text that is not UTF-8, a number out of range.
    LT_BAD_INPUT = 8,
    /// Somebody else is at it: another thread uses the handle, or an answer of the chat is not over.
    LT_BUSY = 9,
    /// It was stopped on request.
    LT_CANCELLED = 10,
    /// A fault of the library; please report it. A handle that was in use is good for nothing but to be freed.
    LT_INTERNAL = 11,
}

impl lt_status {
    fn of(kind: ErrorKind) -> lt_status {
        match kind {
            ErrorKind::Io => lt_status::LT_IO,
            ErrorKind::NotFound => lt_status::LT_NOT_FOUND,
            ErrorKind::Format => lt_status::LT_FORMAT,
            ErrorKind::Unsupported => lt_status::LT_UNSUPPORTED,
            ErrorKind::Limit => lt_status::LT_LIMIT,
            ErrorKind::Mismatch => lt_status::LT_MISMATCH,
            ErrorKind::BadInput => lt_status::LT_BAD_INPUT,
            ErrorKind::Busy => lt_status::LT_BUSY,
            ErrorKind::Cancelled => lt_status::LT_CANCELLED,
            // A kind without a status of its own is a fault, which the test below looks for.
            _ => lt_status::LT_INTERNAL,
        }
    }
}

thread_local! {
    /// What went wrong last on this thread.
    static SAID: RefCell<CString> = RefCell::default();
}

/// The words of the last failure on this thread, in one line; empty before the first. Good until the next call that fails on
/// this thread, or the thread's end.
#[unsafe(no_mangle)]
pub extern "C" fn lt_error() -> *const c_char {
    // A thread that is about to end has none any more.
    SAID.try_with(|said| said.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of the library, like `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn lt_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Makes a call of `work`: errors and panics become a status and words.
pub(super) fn call(work: impl FnOnce() -> Result<lt_status>) -> lt_status {
    // What a panic may have left half done is behind locks, which it poisons.
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(fault(&*panic)));
    done.unwrap_or_else(|error| {
        say(&error.to_string());
        lt_status::of(error.kind())
    })
}

/// Makes a call of something that cannot be told how it went. Nothing crosses.
pub(super) fn quietly(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

fn fault(panic: &(dyn Any + Send)) -> Error {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("a fault of the library, please report it: {}", words.unwrap_or("no words")))
}

fn say(words: &str) {
    let words: Vec<u8> = words.bytes().filter(|b| *b != 0).collect();
    let words = CString::new(words).unwrap_or_default();
    let _ = SAID.try_with(|said| *said.borrow_mut() = words);
}

/// What a pointer of the caller's points at.
///
/// # Safety
/// It is null, or good for reading for as long as the call lasts.
pub(super) unsafe fn given<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// The place where a call leaves what it gives.
///
/// # Safety
/// It is null, or good for writing a `T` that nobody else looks at, for as long as the call lasts.
pub(super) unsafe fn place<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut std::mem::MaybeUninit<T>> {
    // SAFETY: the caller's promise; what was there before is never read.
    unsafe { pointer.cast::<std::mem::MaybeUninit<T>>().as_mut() }.ok_or_else(|| null(name))
}

/// Copies as much of a list as the caller has room for, and says how long it is.
///
/// # Errors
/// A null pointer, but for `to` without any room; then nothing is written.
///
/// # Safety
/// `to` is null, or good for writing `room` of `T` that nobody else looks at, for as long as the call lasts; `n` is for a number.
pub(super) unsafe fn give_list<T: Copy>(
    list: &[T],
    (to, name): (*mut T, &str),
    room: usize,
    n: *mut usize,
) -> Result<()> {
    if room > 0 && to.is_null() {
        return Err(null(name));
    }
    // SAFETY: the caller's promises; what is copied fits.
    unsafe {
        place(n, "n")?.write(list.len());
        if room > 0 {
            std::ptr::copy_nonoverlapping(list.as_ptr(), to, list.len().min(room));
        }
    }
    Ok(())
}

/// A string of the caller's.
///
/// # Safety
/// It is null, or ends with a zero byte and stays as it is for as long as the call lasts.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|err| Error::bad_input(format!("`{name}` is not UTF-8")).caused_by(err))
}

fn null(name: &str) -> Error {
    Error::bad_input(format!("`{name}` is a null pointer"))
}

/// Gives a handle to the caller.
pub(super) fn give<T>(place: &mut std::mem::MaybeUninit<*mut T>, handle: T) -> lt_status {
    place.write(Box::into_raw(Box::new(handle)));
    lt_status::LT_OK
}

/// Takes a handle back from the caller, and ends it.
///
/// # Safety
/// It is null, or came from [`give`], once, and nobody uses it any more.
pub(super) unsafe fn take_back<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: the caller's promise.
        quietly(|| drop(unsafe { Box::from_raw(handle) }));
    }
}

/// The state of a handle, unless somebody else has it.
///
/// # Errors
/// `Busy` meanwhile; `Internal` once a call with it panicked.
pub(super) fn lock<'a, T>(state: &'a Mutex<T>, what: &str) -> Result<MutexGuard<'a, T>> {
    state.try_lock().map_err(|err| match err {
        TryLockError::WouldBlock => Error::busy(format!("the {what} is in use by another call")),
        TryLockError::Poisoned(_) => Error::internal(format!("the {what} met a fault of the library; free it")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> String {
        // SAFETY: a string that ends with a zero byte, of this thread.
        unsafe { CStr::from_ptr(lt_error()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn panics_end_as_a_status_and_poison_what_they_held() {
        let state = Mutex::new(1);
        assert_eq!(call(|| Ok(lt_status::LT_END)), lt_status::LT_END);
        assert_eq!(said(), "");
        let status = call(|| {
            let _held = lock(&state, "chat")?;
            panic!("on purpose")
        });
        assert_eq!(status, lt_status::LT_INTERNAL);
        assert!(said().ends_with("please report it: on purpose"), "{}", said());
        quietly(|| panic!("on purpose"));
        assert_eq!(call(|| lock(&state, "chat").map(|_| lt_status::LT_OK)), lt_status::LT_INTERNAL);
        assert_eq!(said(), "the chat met a fault of the library; free it");
        let state = Mutex::new(1);
        let _held = lock(&state, "chat").unwrap();
        assert_eq!(call(|| lock(&state, "chat").map(|_| lt_status::LT_OK)), lt_status::LT_BUSY);
        // Words are of their thread, and have no zero byte within.
        std::thread::spawn(|| assert_eq!(said(), "")).join().unwrap();
        call(|| Err(Error::format("a\0b")));
        assert_eq!(said(), "ab");
    }

    #[test]
    fn every_kind_of_error_has_a_status_of_its_own() {
        let statuses: Vec<i32> = ErrorKind::ALL.iter().map(|kind| lt_status::of(*kind) as i32).collect();
        assert_eq!(statuses, (2..12).collect::<Vec<i32>>());
    }
}
