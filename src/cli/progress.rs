//! Progress on stderr: bars on a terminal, silence elsewhere, and Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::media::kill_children;
use crate::stream::{Event, Tally};
use crate::{Error, Result};

/// Set by the first Ctrl-C.
static CANCEL: AtomicBool = AtomicBool::new(false);
/// Set while a person is asked for a line: nothing is at work that could stop.
static AT_PROMPT: AtomicBool = AtomicBool::new(false);

/// Whether somebody looks at [`CANCEL`].
static IS_CAUGHT: AtomicBool = AtomicBool::new(false);

/// Makes the first Ctrl-C (or SIGTERM) ask the work to stop, and the second end the process at once. At a prompt, where the
/// terminal has dropped the line already, the first says how to leave.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn catch_interrupt() -> Result<&'static AtomicBool> {
    IS_CAUGHT.store(true, Ordering::Relaxed);
    end_with_children().map(|()| &CANCEL)
}

/// Makes a Ctrl-C that nobody catches end the process with its external decoders, which do not get it from the terminal.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn end_with_children() -> Result<()> {
    let handler = || {
        if CANCEL.swap(true, Ordering::Relaxed) || !IS_CAUGHT.load(Ordering::Relaxed) {
            kill_children();
            std::process::exit(130);
        }
        if AT_PROMPT.load(Ordering::Relaxed) {
            eprint!("\nagain, or /quit, to leave\n> ");
        }
    };
    match ctrlc::set_handler(handler) {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(err) => Err(Error::from(std::io::Error::other(err))),
    }
}

/// # Errors
/// `Cancelled` once Ctrl-C was pressed.
#[cfg(feature = "demo")]
pub(super) fn check_interrupt(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        Err(Error::new(crate::ErrorKind::Cancelled, "stopped on request"))
    } else {
        Ok(())
    }
}

/// Forgets the Ctrl-C that ended one piece of work, so that the next one can begin; the next Ctrl-C stops that.
pub(super) fn forget_interrupt() {
    CANCEL.store(false, Ordering::Relaxed);
}

/// Asks for a line on a terminal through `read`. A Ctrl-C meanwhile is over when the line is there.
pub(super) fn at_prompt<T>(read: impl FnOnce() -> T) -> T {
    eprint!("> ");
    AT_PROMPT.store(true, Ordering::Relaxed);
    let line = read();
    AT_PROMPT.store(false, Ordering::Relaxed);
    forget_interrupt();
    line
}

/// Bytes of this process in memory, pages of mapped files included, where the system tells.
pub(super) fn memory() -> Option<u64> {
    memory_stats::memory_stats().map(|stats| stats.physical_mem as u64)
}

/// A bar on stderr that counts `n` of `unit`; silent when stderr is not a terminal.
#[cfg(feature = "demo")]
pub(super) fn bar(what: &str, n: usize, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(n as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(&format!("{{msg:<28}} {{wide_bar}} {{pos}}/{{len}} {unit} eta {{eta}}"));
    bar.set_style(style.expect("the template is fixed"));
    bar.set_message(what.to_string());
    bar
}

/// Does `work` while stderr, if it is a terminal and `quiet` is not wanted, says what is being waited for.
pub(super) fn waiting<T>(what: &str, quiet: bool, work: impl FnOnce() -> T) -> T {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let spinner = ProgressBar::with_draw_target(None, target);
    spinner.set_message(what.to_string());
    spinner.enable_steady_tick(std::time::Duration::from_millis(200));
    let result = work();
    spinner.finish_and_clear();
    result
}

/// Draws events as one bar; quiet when stderr is not a terminal or the user wants quiet.
pub(super) struct Progress {
    bar: ProgressBar,
    tally: Tally,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Progress {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{msg:<28} {wide_bar} {pos}/{len} tokens {per_sec} eta {eta}");
        bar.set_style(style.expect("the template is fixed"));
        Progress { bar, tally: Tally::default() }
    }

    /// What was read of media so far.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many frames come again, and how many have not changed, where it is any.
    fn reused(&self) -> String {
        let some = |n: usize, what: &str| if n == 0 { String::new() } else { format!(", {} {what}", 2 * n) };
        some(self.tally.reused_pairs, "as before") + &some(self.tally.left_out_pairs, "unchanged")
    }

    pub(super) fn event(&mut self, event: Event) {
        self.tally.see(&event);
        match event {
            Event::PromptStart { n_tokens, cached } => {
                // The same bar serves question after question.
                self.bar.reset();
                self.tally = Tally::default();
                self.bar.set_length(n_tokens as u64);
                self.bar.set_position(cached as u64);
                self.bar.set_message("reading");
            }
            Event::Encoding { n_done, n_total, share, .. } => {
                let percent = 100.0 * share;
                self.bar.set_message(match n_total {
                    1 => format!("looking {percent:.0}%"),
                    _ => format!("frames {}/{}, next {percent:.0}%", 2 * n_done, 2 * n_total),
                });
                self.bar.tick();
            }
            Event::Encoded { n_done, n_total, .. } => {
                let memory = memory().map_or(String::new(), |n| format!(", {}", HumanBytes(n)));
                self.bar.set_message(format!("frames {}/{}{}{memory}", 2 * n_done, 2 * n_total, self.reused()))
            }
            Event::Prefilled { n_done, n_total } => {
                self.bar.set_position(n_done as u64);
                if n_done == n_total {
                    self.bar.finish_and_clear();
                }
            }
            Event::Streamed { seen, forgotten: 0, n_gone: 0, .. } => {
                self.bar.set_message(format!("frames {}{}", 2 * seen, self.reused()))
            }
            Event::Streamed { seen, forgotten, .. } => {
                self.bar.set_message(format!("frames {} to {}{}", 2 * forgotten, 2 * seen, self.reused()))
            }
            Event::Saved(Ok(_)) | Event::MediumRead { .. } => {}
            Event::Saved(Err(message)) => self.bar.suspend(|| eprintln!("warning: not saved: {message}")),
            Event::Skipped { n_packets, .. } => {
                self.bar.suspend(|| eprintln!("warning: {n_packets} damaged packets skipped"))
            }
            Event::Warning { message, .. } | Event::Notice(message) => {
                self.bar.suspend(|| eprintln!("warning: {message}"))
            }
        }
    }
}
