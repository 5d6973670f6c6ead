//! How the next token is picked, and what ends an answer.

use super::{Fault, Json, fields, short};
use crate::server::limits::{MAX_LOGIT_BIASES, MAX_STOP_BYTES, MAX_STOPS};

type Result<T> = std::result::Result<T, Fault>;

/// How the next token is picked, where the request says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Sampling {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub frequency_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub repeat_penalty: Option<f32>,
    pub logit_bias: Vec<(u32, f32)>,
}

impl Sampling {
    /// Its fields.
    pub(crate) const FIELDS: [&str; 10] = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "repeat_penalty",
        "repetition_penalty",
        "logit_bias",
    ];

    /// Takes a field if it is one of its own.
    pub(super) fn field(&mut self, at: &str, value: &Json<'_>) -> Result<bool> {
        let within = |range| fields::number(value, at, range).map(|n| Some(n as f32));
        match at {
            "temperature" => self.temperature = within((0.0, 100.0))?,
            "top_p" => self.top_p = within((0.0, 1.0))?,
            "min_p" => self.min_p = within((0.0, 1.0))?,
            // -1 and 0: all.
            "top_k" => self.top_k = Some(fields::count(value, at, (-1, 1 << 31))?.max(0) as usize),
            // Any 64 bits, with a sign or without.
            "seed" => {
                let Json::Number(seed) = value else { return Err(fields::wrong(value, at, "a whole number")) };
                let bits = seed.as_u64().or_else(|| seed.as_i64().map(|seed| seed as u64));
                self.seed =
                    Some(bits.ok_or_else(|| Fault::value(at, format!("`seed` is `{seed}`, expected a whole number")))?);
            }
            "frequency_penalty" => self.frequency_penalty = within((-2.0, 2.0))?,
            "presence_penalty" => self.presence_penalty = within((-2.0, 2.0))?,
            "repeat_penalty" | "repetition_penalty" => self.repeat_penalty = within((0.01, 1000.0))?,
            "logit_bias" => self.logit_bias = biases(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn biases(value: &Json<'_>) -> Result<Vec<(u32, f32)>> {
    let given = fields::object(value, "logit_bias")?;
    if given.len() > MAX_LOGIT_BIASES {
        let message = format!("`logit_bias` has `{}` tokens, at most {MAX_LOGIT_BIASES}", given.len());
        return Err(Fault::value("logit_bias", message));
    }
    let one = |(id, bias): &(std::borrow::Cow<'_, str>, Json<'_>)| {
        let at = format!("logit_bias.{}", short(id));
        let id = id.parse::<u32>().map_err(|_| Fault::value(&at, format!("`{}` is no token id", short(id))))?;
        Ok((id, fields::number(bias, &at, (-100.0, 100.0))? as f32))
    };
    given.iter().map(one).collect()
}

/// Strings that end an answer: one, or a list.
pub(super) fn stops(value: &Json<'_>) -> Result<Vec<String>> {
    let one = |value: &Json<'_>, at: &str| {
        let text = fields::text(value, at, MAX_STOP_BYTES)?;
        if text.is_empty() {
            return Err(Fault::value(at, format!("`{at}` is empty")));
        }
        Ok(text.to_string())
    };
    if let Json::Text(_) = value {
        return Ok(vec![one(value, "stop")?]);
    }
    let list = fields::list(value, "stop")?;
    if list.len() > MAX_STOPS {
        return Err(Fault::value("stop", format!("`stop` has `{}` strings, at most {MAX_STOPS}", list.len())));
    }
    list.iter().enumerate().map(|(i, value)| one(value, &format!("stop[{i}]"))).collect()
}
