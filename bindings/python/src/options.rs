//! Keywords as options. Each name is one of the table in `longtake/__init__.py`.

use std::time::Duration;

use longtake::cache::cache_type;
use longtake::media::Decoders;
use longtake::stream::MmprojChoice;
use longtake::{ChatOptions, OpenOptions};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How a model is opened.
pub fn open_options(given: &Bound<'_, PyDict>) -> PyResult<OpenOptions> {
    let mut options = OpenOptions::default();
    for (name, value) in given.iter().filter(|(_, value)| !value.is_none()) {
        match &*name.extract::<String>()? {
            "mmproj" => options.mmproj = MmprojChoice::Path(value.extract()?),
            "threads" => options.threads = Some(value.extract()?),
            "max_memory" => options.max_memory = Some(value.extract()?),
            "mmap" => options.mmap = value.extract()?,
            other => return Err(unknown(other)),
        }
    }
    Ok(options)
}

/// How a chat is held.
pub fn chat_options(given: &Bound<'_, PyDict>, mut options: ChatOptions) -> PyResult<ChatOptions> {
    for (name, value) in given.iter().filter(|(_, value)| !value.is_none()) {
        let (sampling, sample) = (&mut options.sampling, &mut options.media.sample);
        match &*name.extract::<String>()? {
            "ctx_size" => options.ctx_size = Some(value.extract()?),
            "reserve" => options.reserve = value.extract()?,
            "batch_size" => options.batch_size = value.extract()?,
            "max_tokens" => options.max_tokens = value.extract()?,
            "max_memory" => options.max_memory = Some(value.extract()?),
            "max_seconds" => {
                let seconds: f64 = value.extract()?;
                let time = Duration::try_from_secs_f64(seconds);
                options.max_time = Some(time.map_err(|err| PyValueError::new_err(format!("max_seconds: {err}")))?);
            }
            "cache_type" => {
                let name: String = value.extract()?;
                let ty = cache_type(&name).map_err(|err| PyValueError::new_err(err.to_string()))?;
                options.cache_types = Some((ty, ty));
            }
            "temperature" => sampling.temp = value.extract()?,
            "top_p" => sampling.top_p = value.extract()?,
            "min_p" => sampling.min_p = value.extract()?,
            "top_k" => sampling.top_k = value.extract()?,
            "seed" => sampling.seed = value.extract()?,
            "fps" => sample.fps = Some(value.extract()?),
            "start" => sample.video_start = Some(value.extract()?),
            "end" => sample.video_end = Some(value.extract()?),
            "n_frames" => sample.nframes = Some(value.extract()?),
            "max_frames" => sample.max_frames = Some(value.extract()?),
            "min_pixels" => sample.min_pixels = Some(value.extract()?),
            "max_pixels" => sample.max_pixels = Some(value.extract()?),
            "total_pixels" => sample.total_pixels = Some(value.extract()?),
            "temporal_scale" => options.temporal_scale = Some(value.extract()?),
            "ffmpeg" => {
                options.media.decoders = if value.extract()? { Decoders::installed() } else { Decoders::default() };
            }
            "look" => options.look = value.extract()?,
            "special" => options.special = value.extract()?,
            other => return Err(unknown(other)),
        }
    }
    Ok(options)
}

fn unknown(name: &str) -> PyErr {
    PyTypeError::new_err(format!("there is no option `{name}`"))
}
