// Longtake: answers questions about long videos on the machine in front of you. Made of src/ffi by cbindgen
// (`LONGTAKE_HEADER=write cargo test -p longtake-c`): change it there.
//
// A model is opened, a chat begun with it, media given, a question asked, and the answer read piece by piece:
//
//     lt_model *model; lt_chat *chat; lt_answer *answer; const char *piece;
//     if (lt_open("model.gguf", NULL, &model) != LT_OK) { fprintf(stderr, "%s\n", lt_error()); return 1; }
//     lt_chat_new(model, NULL, &chat);
//     lt_chat_video(chat, "holiday.mp4");
//     lt_chat_ask(chat, "Where does the dog appear?", &answer);
//     while (lt_answer_next(answer, &piece, NULL) == LT_OK) fputs(piece, stdout);
//     lt_answer_free(answer); lt_chat_free(chat); lt_model_free(model);
//
// Strings are UTF-8 and end with a zero byte. What a call gives through its last pointer is written only when it is LT_OK
// (lt_answer_next says its own); pointers that come back belong to the library, and each says how long it is good. Handles are
// freed in any order, once.
//
// Threads. A model may be used by any number of threads at the same time. A chat, and an answer, by one call at a time, from any
// thread; a second call meanwhile does not wait, it is LT_BUSY. lt_chat_cancel and lt_chat_resume may be called at any time, from
// any thread, not from a signal handler. Computing is done by the library's own threads with the caller's, and chats of a process
// take turns. Do not fork and use the library in the child. lt_error is of the calling thread.
//
// docs/embedding.md builds and runs this step by step.


#ifndef LONGTAKE_H
#define LONGTAKE_H

#include <stddef.h>
#include <stdint.h>

// How a call ended. Everything above `LT_END` is a failure, of which `lt_error` has the words.
typedef enum lt_status {
  // Done.
  LT_OK = 0,
  // There is nothing more to come; only `lt_answer_next` says so.
  LT_END = 1,
  // The system refused: a disk is full, a file may not be read.
  LT_IO = 2,
  // A file is missing.
  LT_NOT_FOUND = 3,
  // A file is not what its format says it should be.
  LT_FORMAT = 4,
  // Well-formed, but outside of what the library can do.
  LT_UNSUPPORTED = 5,
  // Beyond a cap or a limit: the context, memory, time.
  LT_LIMIT = 6,
  // Two things that must agree do not.
  LT_MISMATCH = 7,
  // A call that makes no sense: a null pointer, text that is not UTF-8, a number out of range.
  LT_BAD_INPUT = 8,
  // Somebody else is at it: another thread uses the handle, or an answer of the chat is not over.
  LT_BUSY = 9,
  // It was stopped on request.
  LT_CANCELLED = 10,
  // A fault of the library; please report it. A handle that was in use is good for nothing but to be freed.
  LT_INTERNAL = 11,
} lt_status;

// What is being done.
typedef enum lt_stage {
  // A prompt of `total` tokens begins; `done` of them were read before.
  LT_PROMPT = 0,
  // `done` of `total` frame pairs of medium `item` went through the vision tower.
  LT_FRAMES = 1,
  // `done` of `total` tokens were read.
  LT_TOKENS = 2,
  // `done` damaged packets were skipped in medium `item`.
  LT_SKIPPED = 3,
  // Time goes by: nothing new to tell, a moment to stop.
  LT_WORKING = 4,
} lt_stage;

// Why an answer ended.
typedef enum lt_finish {
  // It has not ended, or a failure ended it.
  LT_NOT_FINISHED = 0,
  // The model ended it.
  LT_FINISH_STOP = 1,
  // It is as long as `max_tokens` or the context allows.
  LT_FINISH_LENGTH = 2,
  // `lt_answer_stop` was called.
  LT_FINISH_CALLER = 3,
} lt_finish;

// An answer that comes piece by piece. One call at a time may use it, from any thread; one more meanwhile is told `LT_BUSY`.
typedef struct lt_answer lt_answer;

// A chat. One call at a time may use it, from any thread; one more meanwhile is told `LT_BUSY`. `lt_chat_cancel` and
// `lt_chat_resume` may be called at any time. It may be freed while an answer of it is read on.
typedef struct lt_chat lt_chat;

// A model that is ready to talk. Any number of threads may use it at the same time; chats keep what they need of it.
typedef struct lt_model lt_model;

// How a model is opened and a chat is held. Set everything to zero, then `size`, then what you want:
// `lt_options options = {.size = sizeof options, .max_memory = 1 << 30};`. A zero is the default. Those of `lt_open` are the
// options of its chats, too, unless a chat is given its own.
typedef struct lt_options {
  // `sizeof(lt_options)`: tells the library which header the program was compiled with.
  size_t size;
  // For `lt_open`: the projector's file; by default the one beside the model.
  const char *mmproj;
  // Bytes. For `lt_open` a hard cap on the model and all its chats together, for a chat on that chat with the model. What is
  // asked for is made smaller until it fits, which `lt_chat_plan` tells, or refused with `LT_LIMIT` before any work.
  uint64_t max_memory;
  // For `lt_open`: threads that compute, the caller's among them; by default as many as the process may use, by affinity and
  // quota. The first model of a process decides.
  uint32_t threads;
  // For `lt_open`: not 0 reads model files into memory instead of mapping them.
  uint32_t no_mmap;
  // Slots of the context; by default what the first question needs.
  uint32_t ctx_size;
  // Slots for further questions, where the context follows from the first one.
  uint32_t reserve;
  // Tokens per step of reading.
  uint32_t batch_size;
  // Most tokens of an answer.
  uint32_t max_tokens;
  // Seconds until the first word, at most; the machine is measured for some seconds then.
  double max_seconds;
  // Type of cached keys and values, like `q8_0` or `q4_0h`.
  const char *cache_type;
  // Of sampling: 0, the default, takes the likeliest token.
  float temp;
  // Of sampling, where `temp` is above 0: by default 0.95, 0.05 and 40.
  float top_p;
  // See `top_p`.
  float min_p;
  // See `top_p`.
  uint32_t top_k;
  // Of sampling.
  uint64_t seed;
  // Frames of a video that are taken for each second of it; by default 2.
  double fps;
  // Seconds: where in the video to begin.
  double start;
  // Seconds: where to end.
  double end;
  // So many frames, instead of `fps`.
  uint32_t n_frames;
  // At most so many frames.
  uint32_t max_frames;
  // Bounds of a frame's or picture's pixels.
  uint64_t min_pixels;
  // See `min_pixels`.
  uint64_t max_pixels;
  // Bound of the pixels of a whole video.
  uint64_t total_pixels;
  // HoPE's temporal scale.
  double temporal_scale;
  // Not 0 lets `ffmpeg`, where it is on the PATH, decode what is not built in, as a guarded child process.
  uint32_t ffmpeg;
  // Not 0 finds out where answers look, which `lt_answer_looked` tells; it costs somewhat more than attention does, once more.
  uint32_t look;
} lt_options;

// A step of progress.
typedef struct lt_progress {
  // What is being done.
  enum lt_stage stage;
  // Which medium, counted from 0.
  uint32_t item;
  // How much of it is done.
  uint64_t done;
  // Of how much.
  uint64_t total;
} lt_progress;

// Told of each step, on the thread of the call that works; `progress` is good until it returns. Anything but 0 stops the work,
// which then ends with `LT_CANCELLED`. It may call `lt_chat_cancel`; every other call with the same handle is `LT_BUSY`.
typedef int32_t (*lt_progress_fn)(void *user, const struct lt_progress *progress);

// What `lt_watch` did.
typedef struct lt_watched {
  // Tokens in the take.
  uint64_t n_tokens;
  // So many of them were there before.
  uint64_t n_before;
} lt_watched;

// What a question takes.
typedef struct lt_cost {
  // Tokens of media.
  uint64_t n_tokens;
  // Slots of the context.
  uint64_t n_ctx;
  // Frames of all videos.
  uint64_t n_frames;
  // Bytes in all; those of weights, of the cache and of working memory. Zeros behind the first question of a chat, whose
  // memory stays what it is.
  uint64_t memory;
  // See `memory`.
  uint64_t weights;
  // See `memory`.
  uint64_t cache;
  // See `memory`.
  uint64_t working;
  // Seconds until the first word; below 0 where it was not worth measuring.
  double seconds;
  // What was made smaller to fit, in lines; empty where nothing was. Good until the next plan of the chat, or its end.
  const char *reduced;
} lt_cost;

// What an answer took until now.
typedef struct lt_usage {
  // Tokens of the chat with its media.
  uint64_t prompt_tokens;
  // So many of them had been read before.
  uint64_t cached_tokens;
  // Tokens of the answer.
  uint64_t completion_tokens;
  // Seconds of reading.
  double prompt_seconds;
  // Seconds of answering.
  double answer_seconds;
  // Why it ended.
  enum lt_finish finish;
} lt_usage;

// Where the tokens of an answer looked until now: shares of all their attention, which make 1. The README says what they prove.
typedef struct lt_looked {
  // Tokens over which shares are means; 0, as all shares are then, where `look` of `lt_options` asked for none.
  uint64_t n_tokens;
  // Pictures and frames.
  double media;
  // Words, but for the first token.
  double words;
  // The first token, where attention goes that has nowhere else to go.
  double first_token;
  // The answer itself.
  double answer;
} lt_looked;

// A picture or a frame pair that was looked at.
typedef struct lt_look {
  // Which medium of the chat, counted from 0.
  uint32_t item;
  // Which frame pair of a video, counted from 0; 0 for a picture.
  uint32_t pair;
  // Seconds: when the first frame of the pair is shown, and when the next pair begins; both 0 for a picture.
  double from;
  // See `from`.
  double to;
  // Its share of all attention.
  double share;
  // The share of the words that tell its time, where there are any; it is one of `words`.
  double stamp;
} lt_look;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The words of the last failure on this thread, in one line; empty before the first. Good until the next call that fails on
// this thread, or the thread's end.
const char *lt_error(void);

// The version of the library, like `0.1.0`.
const char *lt_version(void);

// Opens the model file `path`, and the projector beside it unless `options` names another. `options` may be null. Free what
// comes to stand in `*model` with `lt_model_free`.
//
// The caller promises:
// `path` ends with a zero byte; `options` is null or as its description says; `model` is good for writing a pointer.
enum lt_status lt_open(const char *path,
                       const struct lt_options *options,
                       struct lt_model **model);

// Opens the small model that the library carries, which knows eight shapes in eight colours: what examples and tests use.
// `LT_UNSUPPORTED` in a library that was built without it.
//
// The caller promises:
// As `lt_open`.
enum lt_status lt_open_demo(const struct lt_options *options,
                            struct lt_model **model);

// What a user should know of the model although it is no error, in lines; empty, mostly. Good until the model is freed; null
// for a null pointer.
//
// The caller promises:
// `model` is null or one that is not freed.
const char *lt_model_warnings(const struct lt_model *model);

// Ends the caller's use of a model; chats of it go on. Null is nothing.
//
// The caller promises:
// `model` is null, or came from `lt_open` or `lt_open_demo`, is freed once, and no other call uses it any more.
void lt_model_free(struct lt_model *model);

// Begins a chat, with the model's options where `options` is null. Free what comes to stand in `*chat` with `lt_chat_free`.
//
// The caller promises:
// `model` is one that is not freed; `options` is null or as its description says; `chat` is good for writing a pointer.
enum lt_status lt_chat_new(const struct lt_model *model,
                           const struct lt_options *options,
                           struct lt_chat **chat);

// Begins a chat about the video of the take file `take`, which is not read again.
//
// The caller promises:
// As `lt_chat_new`; `take` ends with a zero byte.
enum lt_status lt_chat_about(const struct lt_model *model,
                             const char *take,
                             const struct lt_options *options,
                             struct lt_chat **chat);

// Watches the file `video` once, into the take file `take`, so that questions about it are answered at once from then on. One
// that is unfinished is gone on with, one that is complete and of the same left as it is. `options` may be null; `progress` may
// be, too, and is given `user`; `watched` may be.
//
// The caller promises:
// `model` is one that is not freed; strings end with a zero byte; `options` is null or as its description says; `progress` may
// be called with `user` during the call, on its thread; `watched` is null or good for writing.
enum lt_status lt_watch(const struct lt_model *model,
                        const char *video,
                        const char *take,
                        const struct lt_options *options,
                        lt_progress_fn progress,
                        void *user,
                        struct lt_watched *watched);

// Makes an error of what is otherwise the end of the process: a mapped model or take file that somebody cuts short. It takes
// over SIGBUS and SIGXFSZ and hands on what is not its own, so call it once, after the program has set its own handlers.
// `no_mmap` of `lt_options` is the other way out, for models.
enum lt_status lt_catch_file_signals(void);

// Begins with a system prompt; comes before all else.
//
// The caller promises:
// `chat` is one that is not freed; `words` ends with a zero byte.
enum lt_status lt_chat_system(const struct lt_chat *chat, const char *words);

// Adds words to the next question, between media.
//
// The caller promises:
// As `lt_chat_system`.
enum lt_status lt_chat_text(const struct lt_chat *chat, const char *words);

// Adds a video to the next question: a file, a folder of frames, or a `data:` URL. It is opened by the next plan or question,
// which tells what is wrong with it.
//
// The caller promises:
// As `lt_chat_system`.
enum lt_status lt_chat_video(const struct lt_chat *chat,
                             const char *path);

// Adds a picture likewise.
//
// The caller promises:
// As `lt_chat_system`.
enum lt_status lt_chat_picture(const struct lt_chat *chat, const char *path);

// Adds `n` frames from memory as a video, `fps` of which were taken in a second: `rgb` has `n * height * width * 3` bytes, rows
// from top to bottom of red, green and blue, without gaps. They are copied, to a private file for temporary data.
//
// The caller promises:
// `chat` is one that is not freed; `rgb` is good for reading that many bytes.
enum lt_status lt_chat_frames(const struct lt_chat *chat,
                              const uint8_t *rgb,
                              uint32_t n,
                              uint32_t width,
                              uint32_t height,
                              double fps);

// Has `progress` told of each step from now on, in place of who was told before; null tells nobody. `user` is what it is given.
//
// The caller promises:
// `chat` is one that is not freed; `progress` may be called with `user` until another takes its place or the chat and its
// answers are freed, on each thread that makes calls with them. It must return: no exception and no `longjmp` leaves it.
enum lt_status lt_chat_on_progress(const struct lt_chat *chat,
                                   lt_progress_fn progress,
                                   void *user);

// Tells what the question would take, and reads nothing of any medium. `question` may be empty, not null.
//
// The caller promises:
// `chat` is one that is not freed; `question` ends with a zero byte; `cost` is good for writing.
enum lt_status lt_chat_plan(const struct lt_chat *chat, const char *question, struct lt_cost *cost);

// Reads what was given and the question, and begins to answer; what comes to stand in `*answer` is read with `lt_answer_next`.
// Reading takes as long as it takes: progress tells of it, `lt_chat_cancel` stops it. Where it fails, the question did not
// happen, and what was given waits for the next one. `LT_BUSY` while an answer of this chat is neither over nor freed.
//
// The caller promises:
// `chat` is one that is not freed; `question` ends with a zero byte; `answer` is good for writing a pointer.
enum lt_status lt_chat_ask(const struct lt_chat *chat,
                           const char *question,
                           struct lt_answer **answer);

// Stops what the chat does, from any thread: the call that works ends with `LT_CANCELLED` at the next step, and so does every
// later one until `lt_chat_resume`. Twice is once. Null is nothing.
//
// The caller promises:
// `chat` is null or one that is not freed.
void lt_chat_cancel(const struct lt_chat *chat);

// Lets a chat that was stopped go on.
//
// The caller promises:
// `chat` is null or one that is not freed.
void lt_chat_resume(const struct lt_chat *chat);

// Ends a chat; an answer of it can be read on. Null is nothing.
//
// The caller promises:
// `chat` is null, or came from `lt_chat_new` or `lt_chat_about`, is freed once, and no other call uses it any more.
void lt_chat_free(struct lt_chat *chat);

// Waits for the next piece: `LT_OK` with text of whole characters in UTF-8 behind `*piece`, which ends with a zero byte and is
// good until the next call with the answer; `LT_END`, with an empty piece, when it is over, however often it is asked. `length`
// may be null and is then not told: bytes of the piece, should it hold a zero byte.
//
// The caller promises:
// `answer` is one that is not freed; `piece` is good for writing a pointer, `length` is, or null.
enum lt_status lt_answer_next(const struct lt_answer *answer,
                              const char **piece,
                              size_t *length);

// Ends an answer after the piece that came last: the next one is `LT_END`, and the chat can be asked again.
//
// The caller promises:
// `answer` is one that is not freed.
enum lt_status lt_answer_stop(const struct lt_answer *answer);

// What it took until now.
//
// The caller promises:
// `answer` is one that is not freed; `usage` is good for writing.
enum lt_status lt_answer_usage(const struct lt_answer *answer, struct lt_usage *usage);

// The tokens until now: at most `room` of them are copied to `tokens`, and `*n` becomes how many there are. `tokens` may be null
// where `room` is 0.
//
// The caller promises:
// `answer` is one that is not freed; `tokens` is good for writing `room` numbers, `n` for writing one.
enum lt_status lt_answer_tokens(const struct lt_answer *answer,
                                uint32_t *tokens,
                                size_t room,
                                size_t *n);

// Where its tokens looked until now. `*looked` becomes the whole; at most `room` pictures and frame pairs are copied to `looks`, in
// the order of the chat, and `*n` becomes how many there are. `looked` may be null, and `looks` where `room` is 0.
//
// The caller promises:
// `answer` is one that is not freed; `looked` is null or good for writing, `looks` is for `room` of them, `n` for a number.
enum lt_status lt_answer_looked(const struct lt_answer *answer,
                                struct lt_looked *looked,
                                struct lt_look *looks,
                                size_t room,
                                size_t *n);

// Ends an answer, whether it is over or not; what came until then is what was answered. Null is nothing.
//
// The caller promises:
// `answer` is null, or came from `lt_chat_ask`, is freed once, and no other call uses it any more.
void lt_answer_free(struct lt_answer *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LONGTAKE_H */
