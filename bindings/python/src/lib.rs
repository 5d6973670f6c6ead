//! `longtake._native`: the facade for Python. What Python's own words say better (arrays, keywords, types) is in
//! `longtake/__init__.py`; here are handles that release the interpreter's lock while they work.
//!
//! While a question is read, each event takes the lock for a moment: signals are looked at, so that Ctrl-C stops it, and the
//! caller's function is told. What either raises stops the work and is raised by the call.
#![forbid(unsafe_code)]

mod options;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use longtake::stream::{Event, Finish, LookedMedium};
use longtake::{Cancel, ErrorKind, Frames as Video};
use pyo3::exceptions::{PyException, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use options::{chat_options, open_options};

pyo3::create_exception!(longtake, Error, PyException, "What went wrong: words, and its `kind`.");

/// An error of the engine as Python's.
fn raise(py: Python<'_>, error: &longtake::Error) -> PyErr {
    let kind = match error.kind() {
        ErrorKind::Io => "io",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Format => "format",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Limit => "limit",
        ErrorKind::Mismatch => "mismatch",
        ErrorKind::BadInput => "bad_input",
        ErrorKind::Busy => "busy",
        ErrorKind::Cancelled => "cancelled",
        _ => "internal",
    };
    let raised = Error::new_err(error.to_string());
    match raised.value(py).setattr("kind", kind) {
        Ok(()) => raised,
        Err(other) => other,
    }
}

fn busy(py: Python<'_>, what: &str) -> PyErr {
    raise(py, &longtake::Error::busy(format!("the {what} is in use by another thread")))
}

/// The state of a handle, unless another thread has it.
fn lock<T>(state: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match state.try_lock() {
        Ok(state) => Some(state),
        Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// What was raised while the engine worked, by a signal or by the caller's function.
#[derive(Clone, Default)]
struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    fn put(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Who hears of events: signals, and `function` where there is one.
    fn sink(&self, cancel: Cancel, function: Option<Py<PyAny>>) -> impl FnMut(Event) + Send + 'static {
        let raised = self.clone();
        move |event| {
            Python::attach(|py| {
                let told = py.check_signals().and_then(|()| match (&function, progress(&event)) {
                    (Some(function), Some(progress)) => function.call1(py, progress).map(drop),
                    _ => Ok(()),
                });
                if let Err(error) = told {
                    raised.put(error);
                    cancel.cancel();
                }
            });
        }
    }

    /// What a call that worked until now gives to Python. A stop by what was raised is over with it.
    fn or<T>(&self, py: Python<'_>, done: longtake::Result<T>, cancel: &Cancel) -> PyResult<T> {
        match (done, self.take()) {
            (_, Some(error)) => {
                cancel.clear();
                Err(error)
            }
            (done, None) => done.map_err(|error| raise(py, &error)),
        }
    }
}

/// (stage, done, total) of what is worth telling.
fn progress(event: &Event) -> Option<(&'static str, usize, usize)> {
    match *event {
        Event::PromptStart { n_tokens, cached } => Some(("prompt", cached, n_tokens)),
        Event::Encoded { n_done, n_total, .. } => Some(("frames", n_done, n_total)),
        Event::Prefilled { n_done, n_total } => Some(("tokens", n_done, n_total)),
        _ => None,
    }
}

/// A model that is ready to talk.
#[pyclass(frozen)]
struct Model(longtake::Longtake);

#[pymethods]
impl Model {
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.0.warnings().to_vec()
    }

    #[pyo3(signature = (take, options, progress))]
    fn chat(
        &self,
        py: Python<'_>,
        take: Option<PathBuf>,
        options: &Bound<'_, PyDict>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Chat> {
        let options = chat_options(options, longtake::ChatOptions::default())?;
        let begun = py.detach(|| match &take {
            None => Ok(self.0.chat()),
            Some(take) => self.0.chat_about(take),
        });
        let mut chat = begun.map_err(|error| raise(py, &error))?.options(options);
        chat.check().map_err(|error| raise(py, &error))?;
        let (raised, cancel) = (Raised::default(), chat.cancel());
        let chat = chat.on_event(raised.sink(cancel.clone(), progress));
        Ok(Chat { state: Mutex::new(Some(chat)), raised, cancel })
    }

    /// (tokens in the take, tokens that were there before).
    #[pyo3(signature = (video, take, system, again, options, progress))]
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python function")]
    fn watch(
        &self,
        py: Python<'_>,
        video: PathBuf,
        take: PathBuf,
        system: Option<String>,
        again: bool,
        options: &Bound<'_, PyDict>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(usize, usize)> {
        let options = chat_options(options, longtake::ChatOptions::default().reserve(longtake::api::TAKE_RESERVE))?;
        let mut watching = self.0.watch(video).options(options);
        if let Some(system) = system {
            watching = watching.system(system);
        }
        if again {
            watching = watching.again();
        }
        let (raised, cancel) = (Raised::default(), watching.cancel());
        let watching = watching.on_event(raised.sink(cancel.clone(), progress));
        let done = py.detach(|| watching.into_take(take));
        raised.or(py, done, &cancel).map(|watched| (watched.n_tokens, watched.n_before))
    }
}

/// A talk.
#[pyclass(frozen)]
struct Chat {
    /// There unless a call with it panicked.
    state: Mutex<Option<longtake::Chat>>,
    raised: Raised,
    cancel: Cancel,
}

impl Chat {
    fn change(&self, py: Python<'_>, change: impl FnOnce(longtake::Chat) -> longtake::Chat) -> PyResult<()> {
        let mut state = lock(&self.state).ok_or_else(|| busy(py, "chat"))?;
        let chat = state.take().ok_or_else(|| gone(py))?;
        let chat = state.insert(change(chat));
        chat.check().map_err(|error| raise(py, &error))
    }

    /// Works with the chat while others have the lock.
    fn work<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut longtake::Chat) -> longtake::Result<T> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let mut state = lock(&self.state)?;
            Some(state.as_mut().map(work))
        });
        let done = done.ok_or_else(|| busy(py, "chat"))?.ok_or_else(|| gone(py))?;
        self.raised.or(py, done, &self.cancel)
    }
}

fn gone(py: Python<'_>) -> PyErr {
    raise(py, &longtake::Error::internal("the chat met a fault of the library"))
}

#[pymethods]
impl Chat {
    fn system(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        self.change(py, |chat| chat.system(text))
    }

    fn text(&self, py: Python<'_>, text: &str) -> PyResult<()> {
        self.change(py, |chat| chat.text(text))
    }

    fn video(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.change(py, |chat| chat.video(path))
    }

    fn picture(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        self.change(py, |chat| chat.picture(path))
    }

    fn frames(&self, py: Python<'_>, frames: &Frames) -> PyResult<()> {
        let taken = lock(&frames.0).ok_or_else(|| busy(py, "list of frames"))?.take();
        let video = taken.ok_or_else(|| raise(py, &longtake::Error::bad_input("these frames were given already")))?;
        self.change(py, |chat| chat.frames(video))
    }

    /// What the question would take, as a dictionary.
    fn plan<'py>(&self, py: Python<'py>, question: &str) -> PyResult<Bound<'py, PyDict>> {
        let plan = self.work(py, |chat| chat.plan(question))?;
        let said = PyDict::new(py);
        said.set_item("n_tokens", plan.cost.n_tokens)?;
        said.set_item("n_ctx", plan.cost.n_ctx)?;
        said.set_item("memory", plan.cost.memory())?;
        said.set_item("seconds", plan.cost.seconds.map(|seconds| seconds.total()))?;
        said.set_item("reduced", plan.cost.reduced)?;
        let media = plan.media.into_iter();
        let media: Vec<_> =
            media.map(|m| (m.kind.name(), m.label, m.width, m.height, m.n_frames, m.n_tokens)).collect();
        said.set_item("media", media)?;
        Ok(said)
    }

    fn ask(&self, py: Python<'_>, question: &str) -> PyResult<Answer> {
        let answer = self.work(py, |chat| chat.ask(question))?;
        let (cancel, raised) = (self.cancel.clone(), self.raised.clone());
        Ok(Answer { state: Mutex::new(answer), raised, cancel })
    }

    fn cancel(&self) {
        self.cancel.cancel();
    }

    fn resume(&self) {
        self.cancel.clear();
    }
}

/// Frames on their way into a chat.
#[pyclass(frozen)]
struct Frames(Mutex<Option<Video>>);

#[pymethods]
impl Frames {
    #[new]
    fn new(py: Python<'_>, n_frames: usize, width: usize, height: usize, fps: f64) -> PyResult<Frames> {
        let video = Video::new(n_frames, (width, height), fps).map_err(|error| raise(py, &error))?;
        Ok(Frames(Mutex::new(Some(video))))
    }

    fn push(&self, py: Python<'_>, rgb: &[u8]) -> PyResult<()> {
        let pushed = py.detach(|| Some(lock(&self.0)?.as_mut().map(|video| video.push(rgb))));
        let pushed = pushed.ok_or_else(|| busy(py, "list of frames"))?;
        let given = || longtake::Error::bad_input("these frames were given already");
        pushed.unwrap_or_else(|| Err(given())).map_err(|error| raise(py, &error))
    }
}

/// Where an answer looked, see `Answer::looked`.
type Seen = (String, usize, usize, (f64, f64, f64, f64), Vec<(&'static str, String, f64, Vec<(f64, f64, f64, f64)>)>);

/// An answer, piece by piece.
#[pyclass(frozen)]
struct Answer {
    state: Mutex<longtake::Answer>,
    raised: Raised,
    cancel: Cancel,
}

impl Answer {
    fn with<T>(&self, py: Python<'_>, look: impl FnOnce(&mut longtake::Answer) -> T) -> PyResult<T> {
        Ok(look(&mut *lock(&self.state).ok_or_else(|| busy(py, "answer"))?))
    }
}

#[pymethods]
impl Answer {
    fn piece(&self, py: Python<'_>) -> PyResult<String> {
        let next = py.detach(|| Some(lock(&self.state)?.next())).ok_or_else(|| busy(py, "answer"))?;
        match self.raised.or(py, next.transpose(), &self.cancel)? {
            Some(piece) => Ok(piece),
            None => Err(PyStopIteration::new_err(())),
        }
    }

    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, longtake::Answer::stop)
    }

    fn text(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |answer| answer.text().to_string())
    }

    fn tokens(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.with(py, |answer| answer.tokens().to_vec())
    }

    fn finish(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        self.with(py, |answer| {
            answer.finish().map(|finish| match finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
                Finish::Caller => "cancelled",
            })
        })
    }

    /// (words, tokens, layers, shares of media, words, the first token and the answer, media as (kind, label, share, pairs as (from,
    /// to, share, stamp))), where it was asked to look and has a token.
    fn looked(&self, py: Python<'_>) -> PyResult<Option<Seen>> {
        self.with(py, |answer| {
            let looked = answer.looked()?;
            let pairs = |medium: &LookedMedium| {
                medium.pairs.iter().map(|pair| (pair.from, pair.to, pair.share, pair.stamp)).collect()
            };
            let media = looked.media.iter();
            let media = media.map(|seen| (seen.kind.name(), seen.label.clone(), seen.share, pairs(seen))).collect();
            let shares = (looked.of_media(), looked.words, looked.first, looked.answer);
            Some((looked.to_string(), looked.n_tokens, looked.n_layers, shares, media))
        })
    }

    /// (prompt tokens, cached tokens, completion tokens, seconds of reading, seconds of answering).
    fn usage(&self, py: Python<'_>) -> PyResult<(usize, usize, usize, f64, f64)> {
        self.with(py, |answer| {
            let usage = answer.usage();
            let (read, said) = (usage.prompt_time.as_secs_f64(), usage.answer_time.as_secs_f64());
            (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, read, said)
        })
    }
}

/// Opens a model and the projector beside it.
#[pyfunction]
fn open(py: Python<'_>, path: PathBuf, options: &Bound<'_, PyDict>) -> PyResult<Model> {
    let options = open_options(options)?;
    py.detach(|| longtake::Longtake::open_with(path, options)).map(Model).map_err(|error| raise(py, &error))
}

/// The model that the module carries.
#[pyfunction]
fn demo(py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<Model> {
    let options = open_options(options)?;
    py.detach(|| longtake::Longtake::demo_with(options)).map(Model).map_err(|error| raise(py, &error))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{Answer, Chat, Error, Frames, Model, demo, open};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        pyo3::types::PyModuleMethods::add(module, "__version__", env!("CARGO_PKG_VERSION"))
    }
}
