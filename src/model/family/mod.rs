//! Families of models, as data: what the network of each has that others have not. A family names the architecture of its text
//! models and the type of its projectors; the network itself (`decoder.rs`, `vit.rs`) is written once and asks the [`TextSpec`]
//! and the [`VitSpec`]. There are no loops over layers here and no sizes: those come from the file.
//!
//! The architecture of a text model is made of family and layout ([`architecture_of`]), so that a reader that does not know one
//! of them refuses the file rather than computing wrong positions. Some families share an architecture or a projector, as
//! llama.cpp writes them: what they share is then the same here, which a test below looks after.

mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_vl;
mod qwen3_vl_moe;
mod video_form;

pub use qwen2_5_vl::QWEN2_5_VL;
pub use qwen2_vl::QWEN2_VL;
pub use qwen3_5::QWEN3_5;
pub use qwen3_5_moe::QWEN3_5_MOE;
pub use qwen3_vl::QWEN3_VL;
pub use qwen3_vl_moe::QWEN3_VL_MOE;
pub use video_form::{FrameBudget, Pixels, Sampling, VideoForm, VideoRules, VideoTime};

use crate::position::Layout;
use crate::{Error, Result};

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Family {
    /// As its authors write it.
    pub name: &'static str,
    /// llama.cpp's architecture of its text models, with the layout that they were published with.
    pub architecture: &'static str,
    /// The layouts that its text models may have, the published one first, and what stands for each in an architecture; the
    /// published one needs nothing.
    pub layouts: &'static [(Layout, &'static str)],
    /// What its language model has that others have not.
    pub text: TextSpec,
    /// llama.cpp's `clip.projector_type`.
    pub projector: &'static str,
    /// What its vision tower has that others have not.
    pub vit: VitSpec,
    /// How its videos are sampled, sized and told of.
    pub video: VideoForm,
}

/// What the layers of a language model have. All have RMSNorm before attention and before the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSpec {
    /// Biases of queries, keys and values.
    pub qkv_bias: bool,
    /// RMSNorm over each head of queries and keys, after the projection and before the rotation.
    pub qk_norm: bool,
    /// The query projection gives, head by head, a query and a gate; attention is multiplied by sigmoid(gate).
    pub output_gate: bool,
    /// The size of a head is a key of the file; elsewhere it may follow from width and heads.
    pub explicit_head: bool,
    /// Only the first elements of a head rotate, as many as the file says.
    pub partial_rotary: bool,
    /// The file says how many pairs time, height and width have; elsewhere it may leave that to the layout.
    pub explicit_sections: bool,
    /// The tensor of the norm between attention and MLP.
    pub ffn_norm: &'static str,
    /// What stands behind that norm.
    pub ffn: FfnSpec,
    /// First layers behind which rows of the projector's taps are added (DeepStack), unless the file says how many.
    pub n_deepstack: usize,
    /// Some layers keep a recurrent state (Gated DeltaNet) and not keys and values: all but every so many-th, unless the file
    /// lists them.
    pub full_attention_interval: Option<usize>,
}

/// The MLPs of a layer; all are down(silu(gate) * up).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FfnSpec {
    /// One, for every token.
    Dense,
    /// Many, of which a router gives each token a few: those with the largest scores, each weighted with its share of their
    /// softmax.
    Experts {
        /// Beside them there is one for every token, weighted with the sigmoid of a product of its own.
        shared: bool,
    },
}

/// What a vision tower has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitSpec {
    /// How rows are normalized.
    pub norm: VitNorm,
    /// What stands between attention and the next block.
    pub mlp: VitMlp,
    /// The patch embedding has a bias.
    pub patch_bias: bool,
    /// A square table of learned positions, interpolated to the grid, is added to the patches; rotation comes beside it.
    pub learned_positions: bool,
    /// Most blocks attend within windows; these are the published ones.
    pub windows: Option<WindowSpec>,
    /// Blocks may have a tap: a merger of their own, whose rows are added behind the first decoder layers (DeepStack).
    pub taps: bool,
}

/// The norms of a tower, and of its merger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitNorm {
    /// LayerNorm, with weight and bias.
    Layer,
    /// RMSNorm, with a weight.
    Rms,
}

/// The MLP of a tower. All of its products have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VitMlp {
    /// down(x * sigmoid(1.702 x)), x = up
    QuickGelu,
    /// down(0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))), x = up
    GeluTanh,
    /// down(silu(gate) * up)
    SwiGlu,
}

/// Windows where a file says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// Pixels along the side of a window.
    pub size: usize,
    /// Every so many-th block attends to the whole frame pair.
    pub pattern: usize,
}

/// All families. Where some share an architecture or a projector, the first one stands for them.
pub static FAMILIES: [&Family; 6] = [&QWEN2_VL, &QWEN2_5_VL, &QWEN3_VL, &QWEN3_5, &QWEN3_VL_MOE, &QWEN3_5_MOE];

/// The `general.architecture` of a text model of `family` with `layout`.
///
/// # Errors
/// `Unsupported` where the family is not known with this layout, listing those that are.
pub fn architecture_of(family: &Family, layout: Layout) -> Result<String> {
    let found = family.layouts.iter().find(|(known, _)| *known == layout);
    found.map(|(_, suffix)| name_of(family, suffix)).ok_or_else(|| {
        let known: Vec<_> = family.layouts.iter().map(|(layout, _)| layout.name()).collect();
        Error::unsupported(format!("{} has no layout `{layout}`, expected one of {}", family.name, known.join(", ")))
    })
}

fn name_of(family: &Family, suffix: &str) -> String {
    let Family { architecture, .. } = family;
    if suffix.is_empty() { architecture.to_string() } else { format!("{architecture}-{suffix}") }
}

/// The family and the layout of a `general.architecture`.
///
/// # Errors
/// `Unsupported` naming the architecture and those that are known.
pub fn layout_of(architecture: &str) -> Result<(&'static Family, Layout)> {
    let all = || FAMILIES.iter().flat_map(|family| family.layouts.iter().map(move |layout| (*family, layout)));
    let found = all().find(|(family, (_, suffix))| name_of(family, suffix) == architecture);
    found.map(|(family, (layout, _))| (family, *layout)).ok_or_else(|| {
        let mut known: Vec<_> = all().map(|(family, (_, suffix))| name_of(family, suffix)).collect();
        known.dedup();
        let mut seen = std::collections::HashSet::new();
        known.retain(|name| seen.insert(name.clone()));
        Error::unsupported(format!("architecture `{architecture}` is not one of {}", known.join(", ")))
    })
}

/// The family of a projector's type.
///
/// # Errors
/// `Unsupported` naming the type and those that are known.
pub fn family_of_projector(projector: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.projector == projector);
    found.copied().ok_or_else(|| {
        let mut known: Vec<_> = FAMILIES.iter().map(|family| format!("`{}`", family.projector)).collect();
        known.dedup();
        let known = known.join(", ");
        Error::unsupported(format!("projector type `{projector}` is not supported, expected one of {known}"))
    })
}

/// Whether there is a family with this `architecture` and this `projector`.
pub fn belong_together(architecture: &str, projector: &str) -> bool {
    FAMILIES.iter().any(|family| (family.architecture, family.projector) == (architecture, projector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_read_back() {
        for family in FAMILIES {
            for (layout, _) in family.layouts {
                let name = architecture_of(family, *layout).unwrap();
                let (found, same) = layout_of(&name).unwrap();
                assert_eq!((found.architecture, same), (family.architecture, *layout), "{name}");
            }
            assert_eq!(architecture_of(family, family.layouts[0].0).unwrap(), family.architecture);
            assert_eq!(family_of_projector(family.projector).unwrap().projector, family.projector);
        }
        let error = layout_of("llama").unwrap_err().to_string();
        assert!(error.contains("`llama`") && error.contains("qwen2vl-hope") && error.contains("qwen35"), "{error}");
        assert_eq!(error.matches("qwen2vl-hopex").count(), 1, "{error}");
        let error = architecture_of(&QWEN3_VL, Layout::Tad).unwrap_err().to_string();
        assert!(error.contains("Qwen3-VL") && error.contains("`tad`"), "{error}");
        assert!(belong_together("qwen35", "qwen3vl_merger") && belong_together("qwen2vl", "qwen2.5vl_merger"));
        assert!(!belong_together("qwen2vl", "qwen3vl_merger"));
        let error = family_of_projector("ldp").unwrap_err().to_string();
        assert!(error.contains("`ldp`") && error.contains("`qwen2.5vl_merger`"), "{error}");
    }

    #[test]
    fn what_families_share_is_the_same() {
        for a in FAMILIES {
            for b in FAMILIES {
                assert!(a.architecture != b.architecture || (a.text, a.layouts) == (b.text, b.layouts));
                assert!(a.projector != b.projector || (a.vit, a.video) == (b.vit, b.video));
            }
        }
    }
}
