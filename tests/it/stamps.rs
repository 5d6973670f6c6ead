//! Prompts of the newer families against the goldens: sizes, stamps, both forms, and what they cost.

use std::sync::Arc;

use longtake::convert::{ConvertOptions, FileType, convert};
use longtake::gguf::Gguf;
use longtake::media::{FrameSource, Rgb, VideoInfo};
use longtake::model::VisionHParams;
use longtake::position::{Layout, Placer};
use longtake::stream::{MediaKind, MediaOptions, Medium, Prompt, StampCost, Unit};
use longtake::text::template::RenderOptions;
use longtake::text::{ChatTemplate, Content, MediaSource, Message, Part, Source, Tokenizer};
use serde_json::Value;

use crate::common::{Arrays, families_json, family_models, golden_families, max_abs_diff};

/// What a prompt needs of a checkpoint.
struct Words {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    hp: VisionHParams,
}

impl Words {
    fn of(checkpoint: &str) -> Words {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("m.gguf");
        let mut options = ConvertOptions::new(golden_families().join("checkpoints").join(checkpoint), &out);
        options.outtype = Some(FileType::from_name("f32").unwrap());
        convert(&options, &mut ()).unwrap();
        let open = |name: &str| Arc::new(Gguf::open(&dir.path().join(name)).unwrap());
        let (text, mmproj) = (open("m.gguf"), open("mmproj-m.gguf"));
        Words {
            tokenizer: Tokenizer::from_metadata(text.meta()).unwrap(),
            template: ChatTemplate::from_metadata(text.meta()).unwrap(),
            hp: VisionHParams::from_gguf(&mmproj).unwrap(),
        }
    }

    fn units(&self, messages: &[Message]) -> Vec<Unit> {
        let render = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let pieces = self.template.tokenize(&self.tokenizer, messages, render).unwrap();
        pieces.into_iter().flat_map(Unit::of).collect()
    }
}

/// A list of frames in memory.
struct List(Vec<Rgb>, VideoInfo);

impl List {
    fn new(frames: Vec<Rgb>) -> Box<List> {
        let (n_frames, height, width) = (frames.len(), frames[0].height, frames[0].width);
        let info = VideoInfo { n_frames, fps: 2.0, duration: 1.0, height, width, decoder: "a list".into() };
        Box::new(List(frames, info))
    }
}

impl FrameSource for List {
    fn info(&self) -> &VideoInfo {
        &self.1
    }

    fn frame(&mut self, index: usize) -> longtake::Result<Rgb> {
        Ok(self.0[index].clone())
    }

    fn is_frame_list(&self) -> bool {
        true
    }

    fn set_rate(&mut self, fps: f64) {
        self.1.fps = fps;
    }
}

/// The messages of a golden conversation, whose media are only named.
fn messages(list: &Value) -> Vec<Message> {
    let part = |part: &Value| match part["type"].as_str().unwrap() {
        "text" => Part::Text(part["text"].as_str().unwrap().to_string()),
        "image" => Part::Image { source: Source::Path("i".into()), options: Default::default() },
        _ => Part::Video { source: MediaSource::Path(Source::Path("v".into())), options: Default::default() },
    };
    let message = |m: &Value| Message {
        role: m["role"].as_str().unwrap().to_string(),
        thought: None,
        calls: Vec::new(),
        content: match &m["content"] {
            Value::String(text) => Content::Text(text.clone()),
            parts => Content::Parts(parts.as_array().unwrap().iter().map(part).collect()),
        },
    };
    list.as_array().unwrap().iter().map(message).collect()
}

fn gray(h: usize, w: usize) -> Rgb {
    Rgb { height: h, width: w, data: vec![90; h * w * 3] }
}

/// Table 3.2, T6: both forms, where text touches videos; `:<` may be one token.
#[test]
fn t6_golden_expansions() {
    for name in ["q3-a", "q35-a"] {
        let mut words = Words::of(name);
        // Frames of the goldens are smaller than real ones may be.
        words.hp.video.shortest = Some(1);
        let rows = families_json(&format!("preprocess/expansion_{name}.json"));
        for row in rows.as_array().unwrap() {
            let user = serde_json::json!([{"role": "user", "content": row["content"]}]);
            let patch = words.hp.patch_size;
            let side = |grid: &Value, axis: usize| grid[axis].as_u64().unwrap() as usize * patch;
            for (form, keep_markers) in [("ids_a", false), ("ids_b", true)] {
                let (mut videos, mut images) = (0, 0);
                let mut media = Vec::new();
                for part in row["content"].as_array().unwrap() {
                    let mut options = MediaOptions { keep_markers, ..MediaOptions::default() };
                    media.push(match part["type"].as_str().unwrap() {
                        "video" => {
                            let grid = &row["video_grid_thw"][videos];
                            let n = row["frames"][videos].as_u64().unwrap() as usize;
                            options.sample.fps = row["fps"][videos].as_f64();
                            videos += 1;
                            let frames = vec![gray(side(grid, 1), side(grid, 2)); n];
                            Medium::frames(List::new(frames), "v".into(), &options).whole(&words.hp).unwrap()
                        }
                        "image" => {
                            let grid = &row["image_grid_thw"][images];
                            (options.sample.min_pixels, images) = (Some(1), images + 1);
                            let picture = gray(side(grid, 1), side(grid, 2));
                            Medium::picture(picture, "i".into(), &options).whole(&words.hp).unwrap()
                        }
                        _ => continue,
                    });
                }
                let mut prompt = Prompt::new(words.units(&messages(&user)), media);
                prompt.tell_time(&words.tokenizer).unwrap();
                let want: Vec<u32> =
                    row[form].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
                assert_eq!(prompt.input_ids(&words.tokenizer).unwrap(), want, "{name} {form}: {}", row["prompt"]);
                assert_eq!(prompt.n_tokens().unwrap(), want.len(), "{name} {form}");
                // A second time nothing happens.
                prompt.tell_time(&words.tokenizer).unwrap();
                assert_eq!(prompt.input_ids(&words.tokenizer).unwrap(), want, "{name} {form} again");
            }
        }
    }
}

/// Every case of the models: grids, tokens of both forms, and the pixels of the first medium.
#[test]
fn golden_prompts_of_the_models() {
    let mut n = 0;
    for (name, index) in family_models() {
        let words = Words::of(&name);
        for (case, entry) in index["cases"].as_object().unwrap() {
            let arrays = Arrays::at(&golden_families().join(format!("model/{name}/{case}.inputs.safetensors")));
            for (form, keep_markers) in [("input_ids", false), ("input_ids_b", true)] {
                if !arrays.has(form) {
                    continue;
                }
                let mut media = Vec::new();
                let parts = entry["messages"].as_array().unwrap().iter().filter_map(|m| m["content"].as_array());
                for part in parts.flatten().filter(|part| part["type"] != "text") {
                    let kind = part["type"].as_str().unwrap();
                    let key = format!("rgb_{}_{kind}", media.len());
                    let shape = arrays.shape(&key);
                    let (h, w) = (shape[shape.len() - 3], shape[shape.len() - 2]);
                    let data = arrays.u8(&key);
                    let frames = data.chunks_exact(3 * h * w);
                    let frames: Vec<Rgb> =
                        frames.map(|data| Rgb { height: h, width: w, data: data.to_vec() }).collect();
                    let mut options = MediaOptions { keep_markers, ..MediaOptions::default() };
                    options.sample.fps = part["fps"].as_f64();
                    options.sample.min_pixels = part["min_pixels"].as_u64();
                    options.sample.max_pixels = part["max_pixels"].as_u64();
                    media.push(if kind == "video" {
                        Medium::frames(List::new(frames), "v".into(), &options).whole(&words.hp).unwrap()
                    } else {
                        Medium::picture(frames[0].clone(), "i".into(), &options).whole(&words.hp).unwrap()
                    });
                }
                for plan in &mut media {
                    let key = format!("{}_grid_thw", plan.kind.name());
                    let grids = arrays.i64(&key);
                    let [t, h, w] = [plan.grid.t, plan.grid.h, plan.grid.w].map(|n| n as i64);
                    assert!(grids.chunks(3).any(|grid| *grid == [t, h, w]), "{name} {case}: {:?}", plan.grid);
                    let key = format!("{}_pixel_values", plan.kind.name());
                    if arrays.has(&key) {
                        let mut rows = Vec::new();
                        (0..plan.n_pairs()).for_each(|pair| plan.pixels(pair, &mut rows).unwrap());
                        assert!(max_abs_diff(&rows, &arrays.f32(&key)) < 1e-5, "{name} {case}");
                    }
                    let seconds = plan.clock.map(|clock| clock.seconds_per_pair);
                    assert_eq!(seconds.is_some(), name.starts_with("q25") && plan.kind == MediaKind::Video);
                }
                let mut prompt = Prompt::new(words.units(&messages(&entry["messages"])), media);
                prompt.tell_time(&words.tokenizer).unwrap();
                let got: Vec<i64> = prompt.input_ids(&words.tokenizer).unwrap().into_iter().map(i64::from).collect();
                assert_eq!(got, arrays.i64(form), "{name} {case} {form}");
                for (plan, want) in prompt.videos.iter().zip(entry["second_per_grid"].as_array().into_iter().flatten())
                {
                    let got = plan.clock.unwrap().seconds_per_pair;
                    assert_eq!(got as f32, want.as_f64().unwrap() as f32, "{name} {case}");
                }
                n += 1;
            }
        }
    }
    assert!(n >= 6, "{n} prompts");
}

/// Table 3.1, L3: the time of a Qwen2.5-VL video goes by the seconds between its pairs, with no time it would stand still.
#[test]
fn l3_time_goes_by_the_clock() {
    let hp = Words::of("q25-a").hp;
    for (fps, step) in [(2.0, 2.0), (1.0, 4.0), (4.0, 1.0), (0.5, 8.0)] {
        let mut options = MediaOptions::default();
        options.sample.fps = Some(fps);
        let plan = Medium::frames(List::new(vec![gray(56, 56); 8]), "v".into(), &options).whole(&hp).unwrap();
        let (mut placer, mut pos) = (Placer::new(Layout::Mrope), Vec::new());
        placer.begin_visual(1, 1, plan.pace(1.0)).unwrap();
        placer.frames(plan.n_pairs(), &mut pos);
        let times: Vec<f64> = pos.iter().map(|pos| pos.t).collect();
        assert_eq!(times, [0.0, step, 2.0 * step, 3.0 * step], "{fps} frames a second");
    }
}

/// Table 3.1, L1: each stamp stands before its pair, frames pair up from the first on.
#[test]
fn l1_stamps_stand_before_their_pairs() {
    let words = Words::of("q3-a");
    let options = MediaOptions::default();
    let mut options = options.clone();
    options.sample.fps = Some(2.0);
    let plan = Medium::frames(List::new(vec![gray(64, 64); 5]), "v".into(), &options).whole(&words.hp).unwrap();
    assert_eq!(plan.frames, [0, 1, 2, 3, 4, 4]);
    let user = serde_json::json!([{"role": "user", "content": [{"type": "video"}]}]);
    let mut prompt = Prompt::new(words.units(&messages(&user)), vec![plan]);
    prompt.tell_time(&words.tokenizer).unwrap();
    let text = words.tokenizer.decode(&prompt.input_ids(&words.tokenizer).unwrap(), false);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
    assert!(at("user\n<0.2 seconds><|vision_start|>") < at("<|vision_end|><1.2 seconds><|vision_start|>"));
    assert!(text.contains("<|vision_end|><2.0 seconds><|vision_start|>"), "{text}");
}

/// What plans count is what prompts have.
#[test]
fn stamps_cost_what_plans_say() {
    for name in ["q3-a", "q35-a"] {
        let words = Words::of(name);
        let cost = StampCost::of(&words.tokenizer).unwrap();
        for (n, fps) in [(1, 2.0), (7, 2.0), (64, 0.5), (100, 0.07)] {
            let mut options = MediaOptions::default();
            options.sample.fps = Some(fps);
            let medium = Medium::frames(List::new(vec![gray(64, 64); n]), "v".into(), &options);
            let shape = medium.shape(&words.hp, Some(cost), None).unwrap();
            let plan = medium.whole(&words.hp).unwrap();
            let user = serde_json::json!([{"role": "user", "content": [{"type": "video"}]}]);
            let mut prompt = Prompt::new(words.units(&messages(&user)), vec![plan]);
            prompt.tell_time(&words.tokenizer).unwrap();
            assert_eq!(prompt.videos[0].n_tokens, shape.n_tokens, "{name}: {n} frames at {fps}");
        }
    }
}
