//! What orders work on a GPU: streams, events, recorded launches, copies in pieces.

use longtake::cache::KvCache;
use longtake::gguf::GgmlType;
use longtake::kernels::cuda::{Copy2d, Gpu, GpuEvent, HostMem, Stream};
use longtake::model::{Choice, Scratch, TextModel};
use longtake::position::{Placer, Pos};

use super::model::{cache_of, demo};
use super::{Rng, down, gpu, is_emulated, up};

#[test]
fn a_stream_waits_for_another_where_it_is_told_to() {
    let text = gpu();
    let (vision, copies) = (text.on(Stream::Vision), text.on(Stream::Copy));
    assert!(text.is(&vision) && vision.is(&copies));
    let (x, y) = (up(&text, &[1.0, 2.0, 3.0]), up(&vision, &[10.0, 20.0, 30.0]));
    text.sync().unwrap();
    vision.sync().unwrap();
    if is_emulated() {
        // Nobody waits: the sum is taken of what was there before.
        vision.add(&y, &y, 3).unwrap();
        text.add(&x, &y, 3).unwrap();
        assert_eq!(down(&x), [11.0, 22.0, 33.0]);
        assert_eq!(down(&y), [20.0, 40.0, 60.0]);
    } else {
        x.write(&[11.0f32, 22.0, 33.0]).unwrap();
        y.write(&[20.0f32, 40.0, 60.0]).unwrap();
        vision.sync().unwrap();
    }
    let event = GpuEvent::new(&text).unwrap();
    vision.add(&y, &y, 3).unwrap();
    event.record(&vision).unwrap();
    // What comes behind the event is nobody's business.
    event.wait(&text).unwrap();
    text.add(&x, &y, 3).unwrap();
    assert_eq!(down(&x), [51.0, 102.0, 153.0]);
    // Over three streams, and an event that is recorded again.
    let [first, second] = [GpuEvent::new(&text).unwrap(), GpuEvent::new(&text).unwrap()];
    for want in [51.0f32 * 2.0 + 7.0, 109.0 * 2.0 + 7.0] {
        text.add(&x, &x, 3).unwrap();
        first.record(&text).unwrap();
        first.wait(&vision).unwrap();
        y.write(&[7.0f32, 7.0, 7.0]).unwrap();
        vision.add(&x, &y, 3).unwrap();
        second.record(&vision).unwrap();
        second.wait(&copies).unwrap();
        copies.sync().unwrap();
        assert_eq!(down(&x)[0], want);
    }
    GpuEvent::new(&text).unwrap().sync().unwrap();
}

/// The other order: kernels run at once, copies late.
#[test]
fn a_kernel_waits_for_a_copy_where_it_is_told_to() {
    if !is_emulated() {
        return;
    }
    let text = Gpu::emulated_eager(1 << 20);
    let copies = text.on(Stream::Copy);
    let (x, y) = (up(&text, &[1.0]), copies.alloc(4, "test").unwrap());
    y.write(&[10.0f32]).unwrap();
    text.add(&x, &y, 1).unwrap();
    assert_eq!(down(&x), [1.0], "nobody waited for the copy");
    let event = GpuEvent::new(&text).unwrap();
    event.record(&copies).unwrap();
    event.wait(&text).unwrap();
    text.add(&x, &y, 1).unwrap();
    assert_eq!(down(&x), [11.0]);
}

#[test]
fn long_copies_go_in_pieces_and_arrive_whole() {
    let (gpu, mut rng) = (gpu(), Rng(77));
    // The emulated GPU's pieces have 10000 bytes: parts of a row, whole rows, an odd rest.
    for (pitch, width, rows) in [(100_003, 100_003, 1), (700, 333, 91), (25_000, 24_999, 3), (10_000, 10_000, 4)] {
        let host: Vec<u8> = (0..pitch * rows).map(|_| rng.below(256) as u8).collect();
        let mem = gpu.alloc(host.len(), "test").unwrap();
        let copy = Copy2d { at: 0, pitch, width, rows };
        mem.write_rows(&host, copy).unwrap();
        let (mut whole, mut part) = (vec![0u8; host.len()], vec![9u8; host.len()]);
        mem.read(&mut whole).unwrap();
        mem.read_rows(&mut part, copy).unwrap();
        let want = |rest: u8| host.iter().enumerate().map(move |(i, b)| if i % pitch < width { *b } else { rest });
        assert!(whole.iter().copied().eq(want(0)) && part.iter().copied().eq(want(9)), "{copy:?}");
    }
    let (mem, mut host) = (gpu.alloc(64, "test").unwrap(), HostMem::new(&gpu, 20).unwrap());
    host.words_mut().unwrap()[4..20].copy_from_slice(&std::array::from_fn::<u32, 16, _>(|i| i as u32));
    host.send((4, 16), &mem).unwrap();
    // Waits until the words have left before it changes them.
    host.words_mut().unwrap().fill(9);
    host.receive(&mem, (2, 16)).unwrap();
    assert_eq!(host.words_mut().unwrap()[..6], [9, 9, 0, 1, 2, 3]);
}

#[test]
fn recorded_launches_run_with_the_numbers_of_the_day() {
    let gpu = gpu();
    gpu.set_graphs(true);
    let (x, y) = (up(&gpu, &[1.0]), up(&gpu, &[10.0]));
    let twice = || gpu.add(&x, &y, 1).and_then(|()| gpu.add(&x, &y, 1));
    let graph = gpu.capture(twice).unwrap().expect("this driver records");
    assert_eq!((down(&x)[0], gpu.n_captured()), (1.0, 1), "nothing ran yet");
    assert!(gpu.replay(&graph).unwrap() && gpu.replay(&graph).unwrap());
    assert_eq!(down(&x)[0], 41.0);
    y.write(&[100.0f32]).unwrap();
    assert!(gpu.replay(&graph).unwrap());
    assert_eq!(down(&x)[0], 241.0);
    // Memory was freed: it might have been that of the launches.
    drop(up(&gpu, &[0.0]));
    assert!(!gpu.replay(&graph).unwrap());
    assert_eq!(down(&x)[0], 241.0);
    // An error of a launch is the caller's, and later launches run.
    assert!(gpu.capture(|| Err(longtake::Error::format("no"))).is_err());
    twice().unwrap();
    assert_eq!(down(&x)[0], 441.0);
    gpu.set_graphs(false);
    assert!(gpu.capture(|| panic!("switched off")).unwrap().is_none());
}

/// Tokens one by one behind `depth` slots that hold no keys: all logits and the largest in turn, and the rows that were
/// written.
fn steps(model: &TextModel, depth: usize, n_steps: usize, scratch: &mut Scratch) -> (Vec<(u32, u32)>, KvCache) {
    let hp = model.hparams();
    let mut cache = cache_of(model, depth + n_steps, GgmlType::F16);
    cache.advance_here(depth);
    let (mut placer, mut pos) = (Placer::new(hp.layout), Vec::<Pos>::new());
    placer.text(depth + n_steps, &mut pos);
    let mut found = Vec::new();
    let mut id = 5;
    for (i, pos) in pos[depth..].iter().enumerate() {
        let n_top = [0, 3, 3][i / 6 % 3];
        let first = found.len();
        match model.step(id, *pos, n_top, &mut cache, scratch).unwrap() {
            Choice::Logits(logits) => found.extend((0..).zip(logits.iter().map(|v| v.to_bits()))),
            Choice::Top(top) => found.extend(top.iter().map(|(id, v)| (*id, v.to_bits()))),
        }
        let best = found[first..].iter().max_by(|a, b| f32::from_bits(a.1).total_cmp(&f32::from_bits(b.1)));
        id = best.expect("there are logits").0;
    }
    cache.pull().unwrap();
    (found, cache)
}

#[test]
fn replayed_steps_are_those_launched_one_by_one() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    let hp = model.hparams().clone();
    // The number of ranges of keys changes at 512.
    let (depth, n_steps) = (500, 26);
    for n in [1, hp.n_layer + 1] {
        let gpu = gpu();
        model.offload(std::slice::from_ref(&gpu), n).unwrap();
        let mut scratch = Scratch::new(&hp, 1);
        gpu.set_graphs(false);
        let (want, kept) = steps(&model, depth, n_steps, &mut scratch);
        assert_eq!(gpu.n_captured(), 0);
        gpu.set_graphs(true);
        let (got, cache) = steps(&model, depth, n_steps, &mut scratch);
        assert!(got == want, "{n} layers: logits");
        let rows =
            |cache: &KvCache| cache.runs(depth..cache.len()).flat_map(|(_, _, b)| b.to_vec()).collect::<Vec<u8>>();
        assert!(rows(&cache) == rows(&kept), "{n} layers: keys and values");
        // Where logits come, what is asked for changes at steps 6, 18 and 24; and ranges of keys do at 11.
        let n_shapes = if n > hp.n_layer { 5 } else { 2 };
        assert_eq!(gpu.n_captured(), n_shapes, "{n} layers");
        // Another cache is other memory.
        drop(kept);
        let (again, _) = steps(&model, depth, 2, &mut scratch);
        assert!(again[..] == want[..again.len()] && gpu.n_captured() == n_shapes + 1, "{n} layers: another cache");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_that_records_nothing_launches_one_by_one() {
    let (mut model, _) = crate::common::text_model(&demo("demo.gguf")).unwrap();
    let hp = model.hparams().clone();
    let run = |model: &mut TextModel, gpu: Gpu| {
        gpu.set_graphs(true);
        model.offload(std::slice::from_ref(&gpu), usize::MAX).unwrap();
        (steps(model, 3, 5, &mut Scratch::new(&hp, 1)).0, gpu.n_captured())
    };
    let (want, n) = run(&mut model, Gpu::emulated(1 << 30));
    assert_eq!(model.warning(), None);
    let (got, none) = run(&mut model, Gpu::emulated_without_capture(1 << 30));
    assert!(got == want && n == 1 && none == 0, "{n} {none}");
    let said = model.warning().expect("a word on why");
    assert!(said.contains("launched one by one") && model.warning().is_none(), "{said}");
}
