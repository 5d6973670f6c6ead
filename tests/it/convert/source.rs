//! Checkpoints that tests build in memory, bend and write.

use std::path::{Path, PathBuf};

use longtake::gguf::{GgmlType, Gguf};
use safetensors::Dtype;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::common::golden;

/// A tensor of a checkpoint.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// A checkpoint in memory: tiny-c, rebuilt from its GGUF pair under Hugging Face names.
#[derive(Clone)]
pub struct Source {
    pub tensors: Vec<Tensor>,
    pub config: Json,
    pub preprocessor: Json,
    tokenizer: Json,
    tokenizer_config: Json,
}

/// The pair of GGUF files that judges conversions of tiny-c.
pub fn judge() -> (Gguf, Gguf) {
    let open = |name: &str| Gguf::open(&golden().join("gguf_models").join(name)).expect("the golden pair opens");
    (open("tiny-c.gguf"), open("mmproj-tiny-c.gguf"))
}

/// The name that published checkpoints give the tensor with this GGUF name; `None` for parts of fused tensors.
pub fn hf_name(gguf: &str) -> Option<String> {
    let (block, rest) = match gguf.split_once("blk.") {
        Some((_, after)) => after.split_once('.').expect("a block number"),
        None => ("", gguf),
    };
    let (rest, end) = match rest.rsplit_once('.') {
        Some((rest, end @ ("weight" | "bias"))) => (rest, end),
        _ => return None,
    };
    let stem = if gguf.starts_with("v.") || gguf.starts_with("mm.") {
        let stem = match rest {
            "ln1" => "norm1",
            "ln2" => "norm2",
            "attn_out" => "attn.proj",
            "ffn_up" => "mlp.fc1",
            "ffn_down" => "mlp.fc2",
            "v.post_ln" => return Some(format!("visual.merger.ln_q.{end}")),
            "mm.0" => return Some(format!("visual.merger.mlp.0.{end}")),
            "mm.2" => return Some(format!("visual.merger.mlp.2.{end}")),
            _ => return None,
        };
        return Some(format!("visual.blocks.{block}.{stem}.{end}"));
    } else {
        match rest {
            "token_embd" => return Some("model.embed_tokens.weight".to_string()),
            "output_norm" => return Some("model.norm.weight".to_string()),
            "output" => return Some("lm_head.weight".to_string()),
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            other => panic!("no Hugging Face name for {other}"),
        }
    };
    Some(format!("model.layers.{block}.{stem}.{end}"))
}

/// The stored values as BF16 bytes; they were BF16 before they were anything else.
fn bf16_bytes(gguf: &Gguf, name: &str) -> Vec<u8> {
    let info = gguf.tensor(name).unwrap_or_else(|| panic!("{name}"));
    let data = gguf.data(info);
    match info.ty {
        GgmlType::BF16 => data.to_vec(),
        GgmlType::F32 => data
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|b| {
                assert_eq!(b[..2], [0, 0], "{name} was never BF16");
                [b[2], b[3]]
            })
            .collect(),
        other => panic!("{name} is {other}"),
    }
}

impl Source {
    /// tiny-c: BF16, tied, one file.
    pub fn tiny_c() -> Source {
        let (text, mmproj) = judge();
        let mut tensors = Vec::new();
        for gguf in [&text, &mmproj] {
            for info in gguf.tensors() {
                if let Some(name) = hf_name(&info.name) {
                    let shape = info.ne.iter().rev().copied().collect();
                    tensors.push(Tensor { name, dtype: Dtype::BF16, shape, data: bf16_bytes(gguf, &info.name) });
                }
            }
        }
        let d = mmproj.meta().need_uint("clip.vision.embedding_length").unwrap() as usize;
        let p = mmproj.meta().need_uint("clip.vision.patch_size").unwrap() as usize;
        for block in 0..mmproj.meta().need_uint("clip.vision.block_count").unwrap() {
            for (end, shape) in [("weight", vec![3 * d, d]), ("bias", vec![3 * d])] {
                let part = |part: &str| bf16_bytes(&mmproj, &format!("v.blk.{block}.attn_{part}.{end}"));
                let data = [part("q"), part("k"), part("v")].concat();
                let name = format!("visual.blocks.{block}.attn.qkv.{end}");
                tensors.push(Tensor { name, dtype: Dtype::BF16, shape, data });
            }
        }
        // (d, 3, 2, p, p) from two (d, 3, p, p).
        let (first, second) =
            (bf16_bytes(&mmproj, "v.patch_embd.weight"), bf16_bytes(&mmproj, "v.patch_embd.weight.1"));
        let area = p * p * 2;
        let pairs = first.chunks(area).zip(second.chunks(area));
        let data = pairs.flat_map(|(a, b)| [a, b]).flatten().copied().collect();
        let name = "visual.patch_embed.proj.weight".to_string();
        tensors.push(Tensor { name, dtype: Dtype::BF16, shape: vec![d, 3, 2, p, p], data });
        let (tokenizer, tokenizer_config) = tokenizer(&text);
        Source {
            tensors,
            config: config(&text, &mmproj),
            preprocessor: preprocessor(&mmproj),
            tokenizer,
            tokenizer_config,
        }
    }

    /// The tensor called `name`, to bend it.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Writes everything but the weights.
    pub fn write_json_files(&self, dir: &Path) {
        let write = |name: &str, json: &Json| std::fs::write(dir.join(name), json.to_string()).unwrap();
        write("config.json", &self.config);
        write("preprocessor_config.json", &self.preprocessor);
        write("tokenizer.json", &self.tokenizer);
        write("tokenizer_config.json", &self.tokenizer_config);
        let eos = &self.config["eos_token_id"];
        let bos = &self.config["bos_token_id"];
        write("generation_config.json", &json!({"bos_token_id": bos, "pad_token_id": bos, "eos_token_id": [eos, bos]}));
    }

    /// Writes the checkpoint into a new folder called `tiny-c`, with one weight file.
    pub fn write(&self) -> Folder {
        let folder = Folder::new();
        self.write_json_files(&folder.dir);
        write_safetensors(&folder.dir.join("model.safetensors"), &self.tensors);
        folder
    }

    /// The same in two shards with an index, which is returned to be bent.
    pub fn write_shards(&self) -> (Folder, Json) {
        let folder = Folder::new();
        self.write_json_files(&folder.dir);
        let (first, second) = self.tensors.split_at(self.tensors.len() / 2);
        let mut map = serde_json::Map::new();
        for (name, tensors) in
            [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
        {
            write_safetensors(&folder.dir.join(name), tensors);
            map.extend(tensors.iter().map(|t| (t.name.clone(), name.into())));
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        folder.write("model.safetensors.index.json", index.to_string());
        (folder, index)
    }
}

/// A checkpoint folder that goes with the test.
pub struct Folder {
    root: TempDir,
    pub dir: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tiny-c");
        std::fs::create_dir(&dir).unwrap();
        Folder { root, dir }
    }

    /// A file beside the checkpoint folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file of the checkpoint.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.dir.join(name), content).unwrap();
    }

    /// The names beside the checkpoint folder, hidden ones too.
    pub fn names_beside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "tiny-c");
        names.sort();
        names
    }
}

/// Writes a safetensors file; the header is made here, so that it can be anything.
pub fn write_safetensors(path: &Path, tensors: &[Tensor]) {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_string(), json!({"format": "pt"}));
    let mut at = 0;
    for t in tensors {
        let end = at + t.data.len();
        header
            .insert(t.name.clone(), json!({"dtype": t.dtype.to_string(), "shape": t.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Json::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    tensors.iter().for_each(|t| bytes.extend(&t.data));
    std::fs::write(path, bytes).unwrap();
}

fn config(text: &Gguf, mmproj: &Gguf) -> Json {
    let uint = |key: &str| text.meta().need_uint(&format!("qwen2vl.{key}")).unwrap();
    let vision = |key: &str| mmproj.meta().need_uint(&format!("clip.vision.{key}")).unwrap();
    let id = |key: &str| text.meta().need_uint(&format!("tokenizer.ggml.{key}")).unwrap();
    let sections = text.meta().ints("qwen2vl.rope.dimension_sections").unwrap().unwrap();
    json!({
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "bos_token_id": id("bos_token_id"),
        "eos_token_id": id("eos_token_id"),
        "hidden_act": "silu",
        "hidden_size": uint("embedding_length"),
        "intermediate_size": uint("feed_forward_length"),
        "max_position_embeddings": uint("context_length"),
        "num_attention_heads": uint("attention.head_count"),
        "num_hidden_layers": uint("block_count"),
        "num_key_value_heads": uint("attention.head_count_kv"),
        "rms_norm_eps": 1e-6,
        "rope_theta": text.meta().need_float("qwen2vl.rope.freq_base").unwrap(),
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_sliding_window": false,
        "sliding_window": 32768,
        "vision_config": {
            "depth": vision("block_count"),
            "embed_dim": vision("embedding_length"),
            "mlp_ratio": 4,
            "num_heads": vision("attention.head_count"),
            "in_chans": 3,
            "hidden_size": uint("embedding_length"),
            "patch_size": vision("patch_size"),
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": &sections[..3]},
        "vocab_size": text.meta().need_strings("tokenizer.ggml.tokens").unwrap().len(),
    })
}

fn preprocessor(mmproj: &Gguf) -> Json {
    let floats = |key: &str| {
        // The shortest decimal of the f32 is what the JSON file held.
        let values = mmproj.meta().floats(key).unwrap().unwrap();
        let text: Vec<Json> = values.iter().map(|x| (*x as f32).to_string().parse::<f64>().unwrap().into()).collect();
        Json::from(text)
    };
    json!({
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": floats("clip.vision.image_mean"),
        "image_std": floats("clip.vision.image_std"),
    })
}

/// tokenizer.json and tokenizer_config.json with the vocabulary of `text`.
fn tokenizer(text: &Gguf) -> (Json, Json) {
    let meta = text.meta();
    let tokens = meta.need_strings("tokenizer.ggml.tokens").unwrap();
    let types = meta.ints("tokenizer.ggml.token_type").unwrap().unwrap();
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (i, (token, ty)) in tokens.iter().zip(types).enumerate() {
        match ty {
            1 => drop(vocab.insert(token.clone(), i.into())),
            3 => added.push(json!({
                "id": i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })),
            _ => {}
        }
    }
    let merges: Vec<Vec<&str>> = meta
        .need_strings("tokenizer.ggml.merges")
        .unwrap()
        .iter()
        .map(|merge| merge.splitn(2, ' ').collect())
        .collect();
    let split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let eos = added.iter().find(|a| a["id"] == meta.need_uint("tokenizer.ggml.eos_token_id").unwrap());
    let config = json!({
        "add_prefix_space": false,
        "eos_token": eos.expect("the end token is special")["content"],
        "pad_token": "<|endoftext|>",
        "bos_token": null,
        "chat_template": meta.need_str("tokenizer.chat_template").unwrap(),
        "tokenizer_class": "Qwen2Tokenizer",
    });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": false}, byte_level.clone()
        ]},
        "post_processor": byte_level.clone(),
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    (tokenizer, config)
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // The copy may be written to, whatever the original allows.
        std::fs::write(to.join(path.file_name().unwrap()), std::fs::read(&path).unwrap()).unwrap();
    }
}
