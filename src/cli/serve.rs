//! `longtake serve`: a model over HTTP.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanBytes;

use super::budget::BudgetFlags;
use super::environment::user_folder;
use super::flags::{MediaFlags, ModelFlags, SamplingFlags};
use super::progress::catch_interrupt;
use crate::files::atomic::write_beside;
use crate::files::input::read_text;
use crate::server::{Bind, Rules, Setup, limits, serve};
use crate::stream::{Engine, SessionOptions};
use crate::text::units::{bytes, duration};
use crate::{Error, Result};

/// Answer over HTTP, as OpenAI's clients ask; with a page for people.
///
/// Upload a video once and read it into a take, ask as often as wanted. Nothing is ever fetched from a network.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Serve the embedded tiny model, which knows 8 shapes in 8 colours.
    #[cfg(feature = "demo")]
    #[arg(long, conflicts_with = "model")]
    demo: bool,
    /// Address to listen on, or `unix:/PATH` for a socket that is a file.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "LONGTAKE_HOST")]
    host: String,
    /// Port to listen on (0: one that is free).
    #[arg(long, value_name = "N", default_value_t = 7878, env = "LONGTAKE_PORT")]
    port: u16,
    /// Write the port here once it is open.
    #[arg(long, value_name = "FILE", env = "LONGTAKE_PORT_FILE")]
    port_file: Option<PathBuf>,
    /// Further name of the model.
    #[arg(short, long, value_name = "NAME", env = "LONGTAKE_ALIAS")]
    alias: Vec<String>,
    /// Key that requests must show; repeatable.
    #[arg(long, value_name = "KEY", env = "LONGTAKE_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File with keys, one a line.
    #[arg(long, value_name = "FILE", env = "LONGTAKE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Share nothing between keys: neither conversations, whose beginnings others could find by how fast they are answered, nor
    /// files, takes and batches.
    #[arg(long, env = "LONGTAKE_PRIVATE")]
    private: bool,
    /// Let everybody ask who can reach the address.
    #[arg(long, env = "LONGTAKE_NO_AUTH")]
    no_auth: bool,
    /// Name under which the server may be called, beside localhost and addresses; repeatable.
    #[arg(long, value_name = "NAME", env = "LONGTAKE_ALLOW_HOST")]
    allow_host: Vec<String>,
    /// Page of another site that may ask (`https://NAME[:PORT]`); repeatable.
    #[arg(long, value_name = "URL", env = "LONGTAKE_ALLOW_ORIGIN")]
    allow_origin: Vec<String>,
    /// Folder for uploads and takes (default: longtake in the user's data folder).
    #[arg(long, value_name = "DIR", env = "LONGTAKE_DATA", conflicts_with = "no_store")]
    data: Option<PathBuf>,
    /// Keep nothing: no uploads, no takes.
    #[arg(long, env = "LONGTAKE_NO_STORE")]
    no_store: bool,
    /// Further folder of takes, as `watch` writes them: they can be asked, and are never changed.
    #[arg(long, value_name = "DIR", env = "LONGTAKE_TAKES", conflicts_with = "no_store")]
    takes: Option<PathBuf>,
    /// Folder of which requests may name files (file:///…).
    #[arg(long, value_name = "DIR", env = "LONGTAKE_MEDIA_PATH")]
    media_path: Option<PathBuf>,
    /// Whether `ffmpeg` decodes what is not built in: `on`, or `off` (default: on where only this machine can reach the server).
    #[arg(long, value_name = "WHEN", env = "LONGTAKE_FFMPEG")]
    ffmpeg: Option<String>,
    /// Requests that are worked on at a time.
    #[arg(long, value_name = "N", default_value_t = limits::PARALLEL, env = "LONGTAKE_PARALLEL")]
    parallel: usize,
    /// Requests that wait; more are told when to come again.
    #[arg(long, value_name = "N", default_value_t = limits::QUEUE, env = "LONGTAKE_QUEUE")]
    queue: usize,
    /// Longest JSON body.
    #[arg(long, value_name = "BYTES", default_value = "64M", env = "LONGTAKE_MAX_BODY")]
    max_body: String,
    /// Largest upload.
    #[arg(long, value_name = "BYTES", default_value = "8G", env = "LONGTAKE_MAX_FILE")]
    max_file: String,
    /// Room for uploads and takes.
    #[arg(long, value_name = "BYTES", default_value = "50G", env = "LONGTAKE_QUOTA")]
    quota: String,
    /// Days without use after which uploads and takes go.
    #[arg(long, value_name = "DAYS", default_value_t = 7, env = "LONGTAKE_KEEP")]
    keep: u64,
    /// Longest time for one answer.
    #[arg(long, value_name = "TIME", default_value = "6h", env = "LONGTAKE_MAX_REQUEST")]
    max_request: String,
    /// Seconds for running answers after the signal to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, env = "LONGTAKE_DRAIN")]
    drain: u64,
    /// Seconds of reading from which on a video of a question becomes a take when its conversation is let go.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, env = "LONGTAKE_KEEP_READ")]
    keep_read: f64,
    /// Seconds for which a prompt that is more than half read is read on for a client that left, and an answer that it left
    /// waits for the same question (0: neither).
    #[arg(long, value_name = "SECONDS", default_value_t = 60, env = "LONGTAKE_LINGER")]
    linger: u64,
    /// Seconds between checkpoints of a take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, env = "LONGTAKE_CHECKPOINT")]
    checkpoint: f64,
    /// Where the one video of a message stands: `video-first` or `as-sent`.
    #[arg(long, value_name = "ORDER", default_value = "video-first", env = "LONGTAKE_MEDIA_ORDER")]
    media_order: String,
    /// Show /metrics without a key.
    #[arg(long, env = "LONGTAKE_METRICS_PUBLIC")]
    metrics_public: bool,
    /// Show /slots: how full each conversation is.
    #[arg(long, env = "LONGTAKE_SLOTS")]
    slots: bool,
    /// Write what is asked to stderr.
    #[arg(long, env = "LONGTAKE_LOG_PROMPTS")]
    log_prompts: bool,
    /// No page at /.
    #[arg(long, env = "LONGTAKE_NO_PAGE")]
    no_page: bool,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<()> {
    let mut setup = args.setup()?;
    let bind = Bind::new(&args.host, args.port);
    bind.check(!setup.keys.is_empty(), args.no_auth)?;
    if !args.may_use_tools(&bind)? {
        setup.media.decoders.tools = None;
    }
    args.warn(&bind, &setup);
    let stop = catch_interrupt()?;
    let (port_file, data) = (args.port_file.clone(), setup.data.clone());
    let listening = move |address: &str, port: Option<u16>| {
        eprintln!("address: {address}");
        match data {
            Some(folder) => eprintln!("data:    {}", folder.display()),
            None => eprintln!("data:    nothing is kept"),
        }
        match (port, port_file) {
            (Some(port), Some(path)) => write_beside(&path, |out| Ok(writeln!(out, "{port}")?)),
            _ => Ok(()),
        }
    };
    let load_model = move || {
        #[cfg(feature = "demo")]
        let is_demo = args.demo;
        #[cfg(not(feature = "demo"))]
        let is_demo = false;
        load(&args.model, is_demo, &args.media)
    };
    serve(&bind, setup, stop, listening, load_model, |desks| {
        let Some(desk) = desks.first() else { return };
        let SessionOptions { n_ctx, .. } = desk.setup.session;
        let (_, _, cache) = desk.pool.usage();
        let weights = desk.engine.n_bytes;
        eprintln!("model:   {}, {} layout", desk.name(), desk.engine.text.hparams().layout);
        eprintln!(
            "memory:  weights {} + cache up to {}, {} conversations of {n_ctx} tokens{}",
            HumanBytes(weights),
            HumanBytes(cache * desks.len() as u64),
            desk.setup.parallel,
            if desks.len() > 1 { format!(" for each of {} keys", desks.len()) } else { String::new() }
        );
        eprintln!("ready");
    })
}

/// Longest context that nobody asked for.
const MAX_OPEN_CONTEXT: usize = 32_768;

/// The model, or the embedded one, and the sizes of its conversations.
pub(crate) fn load(model: &ModelFlags, is_demo: bool, media: &MediaFlags) -> Result<(Arc<Engine>, SessionOptions)> {
    let engine = if is_demo { embedded(model)? } else { model.load(true)? };
    let hp = engine.text.hparams();
    // What the model was trained for, unless that is more than a machine of today has memory for.
    let n_ctx = hp.n_ctx_train.min(MAX_OPEN_CONTEXT);
    let options = model.compute.session(&engine, n_ctx, media.scale(hp.layout)?)?;
    Ok((engine, options))
}

#[cfg(feature = "demo")]
fn embedded(model: &ModelFlags) -> Result<Arc<Engine>> {
    model.compute.embedded()
}

#[cfg(not(feature = "demo"))]
fn embedded(_: &ModelFlags) -> Result<Arc<Engine>> {
    Err(Error::unsupported("this build has no embedded model"))
}

impl Args {
    fn setup(&self) -> Result<Setup> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = read_text(path, 1 << 20)?;
            keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string));
            if keys.is_empty() {
                return Err(Error::bad_input("no key is in it").at(path.display().to_string()));
            }
        }
        if keys.iter().any(|key| key.trim().is_empty()) {
            return Err(Error::bad_input("--api-key is empty"));
        }
        let mut known = BTreeSet::new();
        keys.retain(|key| known.insert(key.clone()));
        if self.private && !(1..=limits::PRIVATE_KEYS).contains(&keys.len()) {
            let most = limits::PRIVATE_KEYS;
            return Err(Error::bad_input(format!(
                "--private with `{}` keys, expected 1 to {most} (--api-key)",
                keys.len()
            )));
        }
        if !(0.0..=86_400.0).contains(&self.checkpoint) {
            return Err(Error::bad_input(format!(
                "`{}` seconds between checkpoints, expected 0 to 86400",
                self.checkpoint
            )));
        }
        if !(0.0..=86_400.0).contains(&self.keep_read) {
            return Err(Error::bad_input(format!("--keep-read `{}`, expected 0 to 86400 seconds", self.keep_read)));
        }
        let as_sent = match self.media_order.as_str() {
            "as-sent" => true,
            "video-first" => false,
            other => return Err(Error::bad_input(format!("--media-order `{other}`, expected video-first or as-sent"))),
        };
        let media_path = self.media_path.as_deref().map(std::fs::canonicalize).transpose()?;
        let seed = u64::try_from(self.sampling.seed).unwrap_or(0);
        let rules = Rules {
            max_file: bytes(&self.max_file)?,
            quota: bytes(&self.quota)?,
            keep: Duration::from_secs(self.keep.saturating_mul(24 * 3600)),
        };
        Ok(Setup {
            aliases: self.alias.clone(),
            keys,
            private: self.private,
            hosts: self.allow_host.clone(),
            origins: self.allow_origin.iter().map(|url| url.trim_end_matches('/').to_string()).collect(),
            data: if self.no_store { None } else { Some(self.data.clone().map_or_else(data_folder, Ok)?) },
            takes: self.takes.clone(),
            media_path,
            max_body: bytes(&self.max_body)?,
            rules,
            parallel: self.parallel.clamp(1, 64),
            queue: self.queue,
            max_request: duration(&self.max_request)?,
            drain: Duration::from_secs(self.drain),
            keep_read: Duration::from_secs_f64(self.keep_read),
            linger: Duration::from_secs(self.linger.min(86_400)),
            checkpoint: Duration::from_secs_f64(self.checkpoint),
            as_sent,
            metrics_public: self.metrics_public,
            log_prompts: self.log_prompts,
            page: !self.no_page,
            slots: self.slots,
            sampling: crate::text::SamplerOptions { seed, ..self.sampling.options() },
            media: self.media.options()?,
            limits: self.budget.limits(0)?,
            ..Setup::default()
        })
    }

    /// Whether external decoders may be used: not where strangers may send files, unless they are wanted.
    fn may_use_tools(&self, bind: &Bind) -> Result<bool> {
        let is_local = bind.check(false, false).is_ok();
        match self.ffmpeg.as_deref() {
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            None if is_local => Ok(true),
            None => {
                eprintln!(
                    "note:    only built-in decoders are used, since other machines can reach this one (--ffmpeg on)"
                );
                Ok(false)
            }
            Some(other) => Err(Error::bad_input(format!("--ffmpeg `{other}`, expected on or off"))),
        }
    }

    /// Says what is more open than it would be.
    fn warn(&self, bind: &Bind, setup: &Setup) {
        if setup.keys.is_empty() && bind.check(false, false).is_err() {
            eprintln!("warning: everybody who can reach {} may ask (--no-auth)", self.host);
        }
        if self.metrics_public {
            eprintln!("warning: /metrics is shown to everybody (--metrics-public)");
        }
        if self.log_prompts {
            eprintln!("warning: what is asked is written to stderr (--log-prompts)");
        }
        for origin in &setup.origins {
            eprintln!("warning: pages of {origin} may ask (--allow-origin)");
        }
    }
}

/// Where this user's data lie.
fn data_folder() -> Result<PathBuf> {
    let data = user_folder("XDG_DATA_HOME", &[".local", "share"]);
    data.map(|data| data.join("longtake"))
        .ok_or_else(|| Error::bad_input("there is no folder for data: pass --data DIR or --no-store"))
}
