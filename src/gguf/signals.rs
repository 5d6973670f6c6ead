//! Signals that a file can send to the process that uses it, turned into errors. Nothing here happens unless
//! [`catch_file_signals`] is called: a library does not take over its host's signals.
//!
//! # SIGBUS: pages that a mapping has lost
//! Somebody cuts a mapped file short, or its disk or network fails: who then touches a lost page gets SIGBUS, which ends the
//! process without a word. Here the handler looks the address up among the mappings of this room, marks that mapping as lost,
//! and puts zeros in place of the rest of it, so that whoever touched it goes on. What it computes from zeros is worthless, and
//! nobody may get to see it: after every step, before its result is used, whoever computes asks
//! [`Gguf::check_unchanged`](super::Gguf::check_unchanged), which is then an error with the file's name. A program asks
//! [`check_nothing_lost`] once more before it reports success. An address that is not ours goes to the handler before this one.
//!
//! # SIGXFSZ: a file that grew beyond the limit of the process
//! It is caught and means nothing; the write that caused it fails with `EFBIG`, as any write to a full disk fails.
//!
//! # Without it
//! A library's host that calls nothing has its own signals, and a mapped file that is cut short ends it. It calls
//! [`catch_file_signals`] after it has set its own handlers, or reads files instead of mapping them
//! ([`GgufOptions::mmap`](super::GgufOptions)).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::Result;
use crate::error::Context;

/// The first mapping of this process that lost pages.
static FIRST_LOST: OnceLock<PathBuf> = OnceLock::new();

/// Makes lost pages and files beyond the process's limit errors instead of signals that end it. For programs: it stays so until
/// the process ends. Where there are no such signals it does nothing.
///
/// # Errors
/// `Io` when the system refuses a handler.
pub fn catch_file_signals() -> Result<()> {
    #[cfg(unix)]
    unix::install()?;
    Ok(())
}

/// Whether every file that was ever mapped kept its pages for as long as it was mapped: what a program asks last.
///
/// # Errors
/// `Io` naming the first file that did not. Mappings that are still there are asked themselves.
pub fn check_nothing_lost() -> Result<()> {
    match FIRST_LOST.get() {
        Some(path) => Err(lost()).at(|| path.display().to_string()),
        None => Ok(()),
    }
}

/// What is wrong with a file that has lost pages.
pub(super) fn lost() -> crate::Error {
    std::io::Error::other("was cut short or became unreadable while it was used").into()
}

/// A mapping that the handler knows, from its creation until just before it is unmapped.
pub(super) struct Watched {
    #[cfg(unix)]
    entry: Option<&'static unix::Entry>,
    path: PathBuf,
}

impl Watched {
    /// Registers the mapping of `path` at these addresses; it is dropped before the mapping is. Beyond some thousand
    /// mappings at a time, further ones are not known to the handler.
    pub(super) fn new(path: &Path, bytes: &[u8]) -> Watched {
        #[cfg(not(unix))]
        let _ = bytes;
        Watched {
            #[cfg(unix)]
            entry: unix::register(bytes.as_ptr().expose_provenance(), bytes.len()),
            path: path.to_path_buf(),
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// `Io` once pages were lost; without the path.
    pub(super) fn check(&self) -> Result<()> {
        #[cfg(unix)]
        if self.entry.is_some_and(unix::Entry::is_lost) {
            FIRST_LOST.get_or_init(|| self.path.clone());
            return Err(lost());
        }
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.check();
        #[cfg(unix)]
        if let Some(entry) = self.entry {
            entry.release();
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use libc::{c_int, c_void, siginfo_t};

    use crate::Result;

    /// Most mappings at a time that the handler knows.
    const N_ENTRIES: usize = 4096;

    /// The addresses of one mapping, read by the handler without a lock.
    pub(super) struct Entry {
        /// 0: free.
        start: AtomicUsize,
        end: AtomicUsize,
        lost: AtomicBool,
    }

    static ENTRIES: [Entry; N_ENTRIES] =
        [const { Entry { start: AtomicUsize::new(0), end: AtomicUsize::new(0), lost: AtomicBool::new(false) } };
            N_ENTRIES];
    /// Who registers holds it; the handler does not.
    static REGISTERING: Mutex<()> = Mutex::new(());
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    /// What SIGBUS did before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    impl Entry {
        pub(super) fn is_lost(&self) -> bool {
            self.lost.load(Ordering::Acquire)
        }

        pub(super) fn release(&self) {
            self.start.store(0, Ordering::Release);
        }
    }

    pub(super) fn register(start: usize, len: usize) -> Option<&'static Entry> {
        let _lock = REGISTERING.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = ENTRIES.iter().find(|entry| entry.start.load(Ordering::Acquire) == 0)?;
        entry.end.store(start.checked_add(len)?, Ordering::Relaxed);
        entry.lost.store(false, Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
        Some(entry)
    }

    pub(super) fn install() -> Result<()> {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(0), Ordering::Release);
        let check = |result: c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        // SAFETY: a sigaction of zeros is a valid one: no handler, no flags, an empty mask.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values, or null where nothing is set.
        check(unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) })?;
        if BEFORE.set(before).is_err() {
            return Ok(()); // installed already
        }
        let set = |signal: c_int, handler: usize| {
            // SAFETY: as above. SA_ONSTACK: the thread's own stack may be what is lost, or full.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            // SAFETY: the handlers below are `extern "C"` functions of the three arguments that SA_SIGINFO passes, live as
            // long as the process, and do only what may be done in a handler.
            check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })
        };
        set(libc::SIGBUS, on_bus_error as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize)?;
        // A handler and not SIG_IGN, which the programs that are started from here would inherit.
        set(libc::SIGXFSZ, on_size_limit as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize)?;
        Ok(())
    }

    extern "C" fn on_size_limit(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

    /// Touches nothing but atomics and makes system calls; takes no lock and asks for no memory.
    extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel passes a valid description of the signal to a handler with SA_SIGINFO.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
        // Codes up to 0 are of signals that a process sent; their address means nothing.
        if code > 0 && cover(address) {
            return;
        }
        if let Some(before) = BEFORE.get() {
            // SAFETY: restores the action that was read by `install`; both calls may be made in a handler. After a fault the
            // instruction is tried again and faults into that action; a signal that was sent is sent again.
            unsafe {
                libc::sigaction(signal, before, std::ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
    }

    /// Marks the mapping that holds `address` as lost, with zeros from that page to its end; false where there is none.
    fn cover(address: usize) -> bool {
        let page = PAGE.load(Ordering::Acquire);
        for entry in &ENTRIES {
            let start = entry.start.load(Ordering::Acquire);
            let end = entry.end.load(Ordering::Relaxed);
            if start == 0 || page == 0 || !(start..end).contains(&address) {
                continue;
            }
            entry.lost.store(true, Ordering::Release);
            let from = address / page * page;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED;
            // SAFETY: the pages from `from` to the one with the mapping's last byte belong to that mapping, which its owner
            // keeps for as long as the entry stands, and are replaced by pages that can be read and written: what was
            // borrowed from it stays borrowed from mapped memory. On the systems of this program mmap is a plain system
            // call that may be made here. It may change errno, which nobody reads after touching mapped memory.
            let zeros = unsafe {
                let at = std::ptr::with_exposed_provenance_mut(from);
                libc::mmap(at, end - from, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
            };
            return zeros != libc::MAP_FAILED;
        }
        false
    }
}
