//! A server from start to end: it listens at once, loads, works, drains.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::accept::{Listener, serve as accept};
use super::app::App;
use super::desk::Desk;
use super::setup::Setup;
use crate::error::Context;
use crate::files::lock;
use crate::kernels::threads;
use crate::stream::{Engine, Events, Prompt, Session, SessionOptions, Unit};
use crate::{Error, Result};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    /// A name or an address, and a port; 0: one that is free.
    Tcp(String, u16),
    /// A socket that is a file.
    Unix(PathBuf),
}

impl Bind {
    /// What `--host` and `--port` say; `unix:PATH` is a file.
    pub(crate) fn new(host: &str, port: u16) -> Bind {
        match host.strip_prefix("unix:") {
            Some(path) => Bind::Unix(path.into()),
            None => Bind::Tcp(host.to_string(), port),
        }
    }

    /// The addresses that it stands for.
    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let Bind::Tcp(host, port) = self else { return Ok(Vec::new()) };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = inner.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        // No name is looked up: the one that every machine has is known.
        if host == "localhost" {
            return Ok(vec![SocketAddr::from(([127, 0, 0, 1], *port))]);
        }
        Err(Error::bad_input(format!("--host `{host}` is no address, expected one like 127.0.0.1, or unix:/PATH")))
    }

    /// Checks that not everybody who can reach the machine can ask, unless that is wanted.
    ///
    /// # Errors
    /// An address beyond this machine, without a key.
    pub(crate) fn check(&self, has_key: bool, no_auth: bool) -> Result<()> {
        let is_open = self.addresses()?.iter().any(|address| !address.ip().is_loopback());
        if is_open && !has_key && !no_auth {
            let message = "other machines can reach this address: pass --api-key or --api-key-file, or --no-auth if everybody may ask";
            return Err(Error::bad_input(message));
        }
        Ok(())
    }
}

/// Least time for writing takes at the end.
const KEEPING: Duration = Duration::from_secs(10);

/// Serves until `stop` is set, and then to the end of what runs. `listening` hears the address first; `load` makes the model,
/// with the size of conversations; `loaded` hears when it is there.
///
/// # Errors
/// An address that cannot be had, a model that cannot be loaded, a store that somebody else uses.
pub(crate) fn serve(
    bind: &Bind,
    setup: Setup,
    stop: &'static AtomicBool,
    listening: impl FnOnce(&str, Option<u16>) -> Result<()>,
    load: impl FnOnce() -> Result<(Arc<Engine>, SessionOptions)> + Send + 'static,
    loaded: impl FnOnce(&[Arc<Desk>]) + Send + 'static,
) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("http").enable_all().build()?;
    // Before anything is opened: two servers in one store would remove each other's files.
    let _lock = setup.data.as_deref().map(own).transpose()?;
    let done = runtime.block_on(async {
        let listener = open(bind).await?;
        let (address, port) = match listener.address() {
            Some(address) => (format!("http://{address}"), Some(address.port())),
            None => (format!("{bind:?}"), None),
        };
        listening(&address, port)?;
        run(listener, setup, stop, load, loaded).await
    });
    if let Bind::Unix(path) = bind {
        let _ = std::fs::remove_file(path);
    }
    // Threads that still compute are not waited for: they were asked to stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Keeps others out of the store, for as long as this is held.
pub(super) fn own(folder: &std::path::Path) -> Result<std::fs::File> {
    let place = || folder.display().to_string();
    std::fs::create_dir_all(folder).at(place)?;
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(folder.join("lock")).at(place)?;
    lock(|| file.try_lock(), "in use by another server or batch; pass another --data, or (to `serve`) --no-store")
        .at(place)?;
    Ok(file)
}

async fn open(bind: &Bind) -> Result<Listener> {
    match bind {
        Bind::Tcp(host, port) => {
            let addresses = bind.addresses()?;
            let place = || format!("{host}:{port}");
            Ok(Listener::Tcp(TcpListener::bind(&addresses[..]).await.at(place)?))
        }
        #[cfg(unix)]
        Bind::Unix(path) => {
            let place = || path.display().to_string();
            // One that a killed server left; one that somebody listens on is in use.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Error::bad_input("another server listens there").at(place()));
            }
            if path.symlink_metadata().is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type())) {
                let _ = std::fs::remove_file(path);
            }
            Ok(Listener::Unix(tokio::net::UnixListener::bind(path).at(place)?))
        }
        #[cfg(not(unix))]
        Bind::Unix(_) => Err(Error::unsupported("sockets that are files are not known on this system")),
    }
}

async fn run(
    listener: Listener,
    setup: Setup,
    stop: &'static AtomicBool,
    load: impl FnOnce() -> Result<(Arc<Engine>, SessionOptions)> + Send + 'static,
    loaded: impl FnOnce(&[Arc<Desk>]) + Send + 'static,
) -> Result<()> {
    let is_local = listener.address().is_none();
    let drain = setup.drain;
    let setup = Arc::new(setup);
    let app = App::new(setup.clone(), is_local);
    let (close, is_closed) = watch::channel(false);
    let accepting = tokio::spawn(accept(listener, app.clone().router(), is_closed));
    let opening = app.clone();
    let (tell, failed) = tokio::sync::oneshot::channel();
    threads::builder("loading").spawn(move || {
        let open = || -> Result<()> {
            let (engine, session) = load()?;
            let setup = Setup { session, ..(*setup).clone() };
            let desks = Desk::open_all(&engine, setup, opening.metrics(), opening.memory())?;
            warm_up(&engine, session)?;
            for desk in &desks {
                if let Ok(batches) = desk.batches() {
                    batches.start(desk)?;
                }
            }
            loaded(&desks);
            opening.ready(desks);
            Ok(())
        };
        let _ = tell.send(open());
    })?;
    let mut failed = Some(failed);
    let mut swept = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(receiver) = &mut failed
            && let Ok(result) = receiver.try_recv()
        {
            result?;
            failed = None;
        }
        if swept.elapsed() > Duration::from_secs(60) {
            swept = Instant::now();
            let sweeping = app.clone();
            tokio::task::spawn_blocking(move || sweeping.desks().iter().for_each(|desk| sweep(desk)));
        }
    }
    // Nothing new; what runs ends in time, films stop at their last checkpoint.
    app.drain();
    for desk in app.desks() {
        desk.attempts.close();
        if let Ok(takes) = desk.takes() {
            takes.close();
        }
        if let Ok(batches) = desk.batches() {
            batches.close();
        }
    }
    let until = Instant::now() + drain;
    let is_busy = |desk: &Arc<Desk>| !desk.queue.is_empty() || desk.takes().is_ok_and(|takes| takes.is_reading());
    while app.desks().iter().any(is_busy) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was read for questions is not lost: it becomes takes, for which there is a moment in any case.
    let until = until.max(Instant::now() + KEEPING);
    let closing = app.clone();
    let closed = tokio::task::spawn_blocking(move || closing.desks().iter().for_each(|desk| desk.pool.close()));
    let is_kept = |desk: &Arc<Desk>| desk.pool.keeper.is_idle();
    while !(closed.is_finished() && app.desks().iter().all(is_kept)) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    close.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_secs(2), accepting).await;
    Ok(())
}

fn sweep(desk: &Desk) {
    if let Ok(files) = desk.files() {
        files.sweep();
    }
    if let Ok(takes) = desk.takes() {
        takes.sweep(desk);
    }
    if let Ok(batches) = desk.batches() {
        batches.sweep(desk);
    }
}

/// A step of everything, so that the first question does not wait for pages and buffers.
fn warm_up(engine: &Arc<Engine>, options: SessionOptions) -> Result<()> {
    static NEVER: AtomicBool = AtomicBool::new(false);
    let id = engine.tokenizer.encode("\n", false)?.first().copied().unwrap_or(0);
    let mut session = Session::new(engine, SessionOptions { n_ctx: 8.min(options.n_ctx), ..options })?;
    let mut prompt = Prompt::new(vec![Unit::Token(id), Unit::Token(id)], Vec::new());
    session.feed(&mut prompt, &mut Events::new(&mut |_| {}, &NEVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_reach_wants_a_key() {
        for (host, has_key, no_auth, is_good) in [
            ("127.0.0.1", false, false, true),
            ("localhost", false, false, true),
            ("[::1]", false, false, true),
            ("127.9.9.9", false, false, true),
            ("unix:/run/x.sock", false, false, true),
            ("0.0.0.0", false, false, false),
            ("::", false, false, false),
            ("192.168.1.2", false, false, false),
            ("0.0.0.0", true, false, true),
            ("0.0.0.0", false, true, true),
        ] {
            assert_eq!(Bind::new(host, 1).check(has_key, no_auth).is_ok(), is_good, "{host}");
        }
        assert!(Bind::new("example.com", 1).check(true, true).is_err());
    }
}
