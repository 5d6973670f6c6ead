//! Checkpoints whose weights were quantized by somebody else's tool: told apart from float weights, and named.

use safetensors::Dtype;
use serde_json::Value as Json;

use super::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Where a configuration says how its weights are quantized; the first that is there counts.
const PLACES: &[&str] = &[
    "/quantization_config",
    "/text_config/quantization_config",
    "/compression_config",
    "/text_config/compression_config",
];

/// Ends of tensor names that only packed weights have, each with the method that is known by it alone.
const PACKED_NAMES: &[(&str, &str)] = &[
    (".qweight", "gptq or awq"),
    (".qzeros", "gptq or awq"),
    (".g_idx", "gptq"),
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".weight_shape", "compressed-tensors"),
    (".weight_scale_inv", "fp8"),
    (".weight_scale", "fp8"),
    (".weight_scale_2", "modelopt"),
    (".input_scale", "fp8"),
    (".W_q", "hqq"),
    ("_blocks", "mxfp4"),
];

/// Refuses packed weights by the name of their method; a note when the configuration speaks of one but the weights are
/// floats, as after they were restored.
///
/// # Errors
/// `Unsupported` naming the method, a packed tensor, and the way out.
pub(crate) fn check_not_packed(checkpoint: &Checkpoint) -> Result<Option<String>> {
    let said = PLACES.iter().find_map(|place| {
        let found = checkpoint.configs.config.pointer(place).filter(|found| !found.is_null())?;
        Some((&place[1..], method_of(found)))
    });
    let by_name = |name: &str| PACKED_NAMES.iter().find(|(end, _)| name.ends_with(end)).map(|(_, method)| *method);
    let packed = checkpoint.tensors().find_map(|t| {
        let by_type = || by_dtype(t.dtype).filter(|_| t.shape.len() > 1 && t.name.ends_with(".weight"));
        by_name(&t.name).or_else(by_type).map(|method| (t, method))
    });
    match (said, packed) {
        (None, None) => Ok(None),
        (Some((place, method)), None) => Ok(Some(format!(
            "config.json: `{}` speaks of `{method}`, but the weights are stored as floats: it is not used",
            place.replace('/', ".")
        ))),
        (said, Some((tensor, guess))) => {
            let method = said.map_or(guess.to_string(), |(_, method)| method);
            Err(Error::unsupported(format!(
                "the weights are packed by `{method}` (`{}` is {}), expected F32, F16 or BF16; convert the checkpoint that \
                 was quantized, `--outtype Q4_K_M` or `Q8_0` makes it as small, or save this one with its weights restored \
                 to floats",
                tensor.name, tensor.dtype
            )))
        }
    }
}

/// The method that a quantization configuration names, with what else tells variants apart.
fn method_of(config: &Json) -> String {
    let text = |key: &str| config.get(key).and_then(Json::as_str);
    let on = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
    let method = match text("quant_method").or(text("quant_algo")) {
        Some(method) => method.chars().take(40).collect(),
        None if on("load_in_4bit") || on("load_in_8bit") => "bitsandbytes".to_string(),
        None => "an unnamed method".to_string(),
    };
    let bits = ["bits", "w_bit"].iter().find_map(|key| config.get(*key).and_then(Json::as_u64));
    let bits = bits.or(on("load_in_4bit").then_some(4)).or(on("load_in_8bit").then_some(8));
    match (bits, text("format")) {
        (Some(bits), _) => format!("{method}, {bits} bits"),
        (None, Some(format)) => format!("{method}, {}", format.chars().take(40).collect::<String>()),
        (None, None) => method,
    }
}

/// The method behind a matrix of this type.
fn by_dtype(dtype: Dtype) -> Option<&'static str> {
    match dtype {
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => Some("fp8"),
        Dtype::U8 | Dtype::I8 => Some("bitsandbytes or alike"),
        Dtype::F4 => Some("fp4"),
        _ => None,
    }
}
