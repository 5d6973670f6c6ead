//! `longtake plan`: what media will cost, before anything of them is decoded.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use serde_json::Map;

use super::budget::{BudgetFlags, measuring, plan_json, print_plan, print_time};
use super::flags::{MediaFlags, ModelFlags, warn_of_length};
use super::live;
use super::out::stdout;
use super::run::{PartFlags, has_media};
use crate::api::{PlannedMedium, take_reserve};
use crate::error::Context;
use crate::media::image_file::is_picture;
use crate::stream::{Budget, Conversation, MediaOptions, Medium, Unit};
use crate::text::template::RenderOptions;
use crate::text::{MediaSource, Part, Source};
use crate::{Error, Result};

/// Say what pictures, videos and text would take: frames, tokens, memory, minutes; of a stream, how soon the context is full.
///
/// The minutes come from a calibration of a few seconds on this machine.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Pictures and videos, told apart by their content: mp4, mov, y4m, gif, anything ffmpeg reads, a folder of frames; or one
    /// `-` for a stream on standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    parts: PartFlags,
    /// Tokens kept free behind it all for questions and answers (default 4096, a quarter of a context below 8192).
    #[arg(long, value_name = "N")]
    reserve: Option<usize>,
    #[command(flatten)]
    media: MediaFlags,
    #[command(flatten)]
    live: live::LiveFlags,
    #[command(flatten)]
    budget: BudgetFlags,
    /// Leave out the minutes, for which this machine would be measured.
    #[arg(long)]
    no_time: bool,
    /// Print one JSON object on stdout.
    #[arg(long)]
    json: bool,
}

/// Runs the command; `matches` know the order in which parts were given.
pub(super) fn run(args: Args, matches: &ArgMatches) -> Result<()> {
    let is_stream = args.files.iter().any(|file| live::is_stream(file));
    // Files alone need no names in a conversation, which are text.
    let is_plain = args.parts.is_empty() && !args.files.is_empty();
    let messages = if is_plain { Vec::new() } else { args.parts.messages(matches, args.files(matches)?)? };
    if is_stream && args.files.len() > 1 || live::has_stream(&messages) {
        return Err(Error::bad_input("a stream is planned alone: give `-` and nothing beside it"));
    }
    if !is_stream {
        args.live.check_unused()?;
    }
    let engine = args.model.load(is_plain || has_media(&messages))?;
    let scale = args.media.scale(engine.text.hparams().layout)?;
    let options = args.model.compute.session(&engine, 0, scale)?;
    let limits = args.budget.limits(args.model.compute.ctx_size)?;
    let reserve = args.reserve.unwrap_or_else(|| take_reserve(limits.n_ctx));
    let budget = Budget::new(&engine, limits, options).with_reserve(reserve);
    if is_stream {
        let plan = live::open(&engine, &args.media)?;
        return live::show_plan(&plan.shape, &budget.fit_live(&plan.shape, reserve)?, args.live.given(), args.json);
    }
    let render = RenderOptions {
        add_generation_prompt: true,
        add_vision_id: args.parts.add_vision_id,
        special: args.parts.special,
        tools: &[],
    };
    let wanted = args.media.options()?;
    let Conversation { units, media } = match is_plain {
        true => Conversation {
            units: Vec::new(),
            media: args.files.iter().map(|f| open(f, &wanted)).collect::<Result<_>>()?,
        },
        false => Conversation::open(&engine, &messages, render, &wanted)?,
    };
    // Media alone are planned as `watch` takes them, with all that will be said around them in the reserve.
    let n_text = if args.parts.has_text() { units.iter().filter(|u| matches!(u, Unit::Token(_))).count() } else { 0 };
    let (plans, mut cost) = budget.fit(media, n_text.saturating_add(reserve))?;
    let plans: Vec<_> = plans.iter().map(PlannedMedium::of).collect();
    warn_of_length(&engine, cost.n_ctx);
    if !args.json {
        print_plan(&plans, &cost);
    }
    if !args.no_time {
        measuring(args.json, || budget.time(&mut cost))?;
    }
    if args.json {
        writeln!(stdout(), "{}", plan_json(&plans, n_text, &cost))?;
    } else {
        print_time(&cost);
    }
    Ok(())
}

/// Opens a file or folder as what it is.
fn open(file: &Path, options: &MediaOptions) -> Result<Medium> {
    match is_picture(file).at(|| file.display().to_string())? {
        true => Medium::image(file, options),
        false => Medium::video(file, options),
    }
}

impl Args {
    /// The files that were given without a flag, with their places in the command line.
    fn files(&self, matches: &ArgMatches) -> Result<Vec<(usize, Part)>> {
        let places = matches.indices_of("files").into_iter().flatten();
        let part = |(place, file): (usize, &PathBuf)| {
            let (source, options) = (Source::Path(file.clone()), Map::new());
            Ok((
                place,
                match is_picture(file).at(|| file.display().to_string())? {
                    true => Part::Image { source, options },
                    false => Part::Video { source: MediaSource::Path(source), options },
                },
            ))
        };
        places.zip(&self.files).map(part).collect()
    }
}
