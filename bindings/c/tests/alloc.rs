//! Answers come through the door for C with no allocation beyond those of the engine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::ffi::{
    lt_answer_free, lt_answer_next, lt_chat_ask, lt_chat_free, lt_chat_new, lt_chat_video, lt_model_free, lt_open,
    lt_options, lt_status,
};
use engine::stream::MmprojChoice;
use engine::{ChatOptions, Longtake, OpenOptions};

/// Counts, and does what the system's does.
struct Counting;

static N: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        N.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, n: usize) -> *mut u8 {
        N.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, n) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const TOKENS: usize = 48;
const QUESTION: &str = "Who enters the room first?";

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/random_model").join(name)
}

/// (allocations, pieces) of an answer to `QUESTION`, from behind the second piece on: what is kept for all answers is there then.
fn counted(mut next: impl FnMut() -> bool) -> (usize, usize) {
    assert!(next() && next());
    let (before, mut n) = (N.load(Ordering::Relaxed), 0);
    while next() {
        n += 1;
    }
    (N.load(Ordering::Relaxed) - before, n)
}

#[test]
fn the_door_allocates_nothing_of_its_own_in_the_loop_of_tokens() {
    let open = OpenOptions::default().mmproj(MmprojChoice::Path(asset("mmproj-demo.gguf"))).threads(1);
    let longtake = Longtake::open_with(asset("demo.gguf"), open).unwrap();
    let mut chat = longtake.chat().options(ChatOptions::default().max_tokens(TOKENS)).video(asset("demo.mp4"));
    let mut answer = chat.ask(QUESTION).unwrap();
    let engine = counted(|| answer.next().transpose().unwrap().is_some());

    let text = |path: PathBuf| CString::new(path.to_str().unwrap()).unwrap();
    let (model, mmproj, video) = (text(asset("demo.gguf")), text(asset("mmproj-demo.gguf")), text(asset("demo.mp4")));
    let question = CString::new(QUESTION).unwrap();
    // SAFETY: zeros are an options of C's, and every pointer below is what the header asks for.
    let door = unsafe {
        let mut options: lt_options = std::mem::zeroed();
        (options.size, options.mmproj, options.max_tokens) = (size_of::<lt_options>(), mmproj.as_ptr(), TOKENS as u32);
        let (mut model_handle, mut chat, mut answer) = (null_mut(), null_mut(), null_mut());
        assert_eq!(lt_open(model.as_ptr(), &raw const options, &raw mut model_handle), lt_status::LT_OK);
        assert_eq!(lt_chat_new(model_handle, null(), &raw mut chat), lt_status::LT_OK);
        assert_eq!(lt_chat_video(chat, video.as_ptr()), lt_status::LT_OK);
        assert_eq!(lt_chat_ask(chat, question.as_ptr(), &raw mut answer), lt_status::LT_OK);
        let door = counted(|| {
            let mut piece: *const c_char = null();
            let status = lt_answer_next(answer, &raw mut piece, null_mut());
            assert!(status == lt_status::LT_OK || status == lt_status::LT_END);
            status == lt_status::LT_OK
        });
        lt_answer_free(answer);
        lt_chat_free(chat);
        lt_model_free(model_handle);
        door
    };
    eprintln!("allocations and pieces: {engine:?} of the engine, {door:?} through the door");
    assert!(engine.1 > 16 && door.1 == engine.1);
    // The buffer of a piece may grow a few times, to the longest one.
    assert!(door.0 <= engine.0 + 3, "{} allocations, the engine has {}", door.0, engine.0);
}
