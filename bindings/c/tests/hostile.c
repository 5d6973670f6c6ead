// What no program should do, done: null pointers, wrong order, numbers and text that are none, stops twice, one handle on several
// threads. Each is a status and words; nothing crashes, hangs or leaks (valgrind and the sanitizers look on).
//
//     hostile VIDEO DIR

#include <longtake.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Threads count, too.
static _Atomic int n_checks;

#define CHECK(what)                                                        \
  do {                                                                     \
    n_checks++;                                                            \
    if (!(what)) {                                                         \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, lt_error());   \
      exit(1);                                                             \
    }                                                                      \
  } while (0)

static const char *SHAPE = "What shape is shown?";

static void read_all(lt_answer *answer, char *text, size_t room) {
  const char *piece;
  size_t length;
  text[0] = 0;
  while (lt_answer_next(answer, &piece, &length) == LT_OK) {
    CHECK(strlen(piece) == length && strlen(text) + length < room);
    strcat(text, piece);
  }
}

static void asks_for_a_ring(lt_chat *chat) {
  lt_answer *answer = NULL;
  char text[256];
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  read_all(answer, text, sizeof text);
  CHECK(strcmp(text, "ring") == 0);
  lt_answer_free(answer);
}

static void nulls(lt_model *model, lt_chat *chat) {
  lt_model *no_model = NULL;
  lt_chat *no_chat = NULL;
  lt_answer *no_answer = NULL;
  lt_cost cost;
  lt_usage usage;
  const char *piece;
  size_t n;
  uint32_t token;
  CHECK(lt_open(NULL, NULL, &no_model) == LT_BAD_INPUT && strstr(lt_error(), "`path`"));
  CHECK(lt_open("x", NULL, NULL) == LT_BAD_INPUT && strstr(lt_error(), "`model`"));
  CHECK(lt_open_demo(NULL, NULL) == LT_BAD_INPUT);
  CHECK(lt_open("no/such.gguf", NULL, &no_model) == LT_NOT_FOUND && strstr(lt_error(), "no/such.gguf"));
  CHECK(no_model == NULL);
  CHECK(lt_chat_new(NULL, NULL, &no_chat) == LT_BAD_INPUT && lt_chat_new(model, NULL, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_about(NULL, "x", NULL, &no_chat) == LT_BAD_INPUT);
  CHECK(lt_chat_about(model, NULL, NULL, &no_chat) == LT_BAD_INPUT);
  CHECK(lt_chat_about(model, "no.take", NULL, &no_chat) == LT_NOT_FOUND && no_chat == NULL);
  CHECK(lt_watch(NULL, "x", "y", NULL, NULL, NULL, NULL) == LT_BAD_INPUT);
  CHECK(lt_watch(model, NULL, "y", NULL, NULL, NULL, NULL) == LT_BAD_INPUT);
  CHECK(lt_watch(model, "no.mp4", "no/such/folder/y", NULL, NULL, NULL, NULL) == LT_NOT_FOUND);
  CHECK(lt_chat_system(NULL, "x") == LT_BAD_INPUT && lt_chat_system(chat, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_text(NULL, "x") == LT_BAD_INPUT && lt_chat_text(chat, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_video(NULL, "x") == LT_BAD_INPUT && lt_chat_video(chat, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_picture(NULL, "x") == LT_BAD_INPUT && lt_chat_picture(chat, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(NULL, (const uint8_t *)"", 1, 1, 1, 1) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, NULL, 1, 1, 1, 1) == LT_BAD_INPUT);
  CHECK(lt_chat_on_progress(NULL, NULL, NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_plan(NULL, "", &cost) == LT_BAD_INPUT && lt_chat_plan(chat, NULL, &cost) == LT_BAD_INPUT);
  CHECK(lt_chat_plan(chat, "", NULL) == LT_BAD_INPUT);
  CHECK(lt_chat_ask(NULL, "", &no_answer) == LT_BAD_INPUT && lt_chat_ask(chat, NULL, &no_answer) == LT_BAD_INPUT);
  CHECK(lt_chat_ask(chat, "", NULL) == LT_BAD_INPUT && no_answer == NULL);
  CHECK(lt_answer_next(NULL, &piece, &n) == LT_BAD_INPUT && lt_answer_stop(NULL) == LT_BAD_INPUT);
  CHECK(lt_answer_usage(NULL, &usage) == LT_BAD_INPUT && lt_answer_tokens(NULL, &token, 1, &n) == LT_BAD_INPUT);
  CHECK(lt_answer_looked(NULL, NULL, NULL, 0, &n) == LT_BAD_INPUT);
  CHECK(lt_model_warnings(NULL) == NULL);
  lt_chat_cancel(NULL);
  lt_chat_resume(NULL);
  lt_answer_free(NULL);
  lt_chat_free(NULL);
  lt_model_free(NULL);
}

static void numbers_and_text(lt_model *model, const char *video) {
  lt_model *no_model = NULL;
  lt_chat *chat = NULL;
  lt_answer *answer = NULL;
  lt_options options;
  memset(&options, 0, sizeof options);
  CHECK(lt_open_demo(&options, &no_model) == LT_BAD_INPUT && strstr(lt_error(), "sizeof(lt_options)"));
  options.size = sizeof options;
  options.max_memory = 1;
  CHECK(lt_open_demo(&options, &no_model) == LT_LIMIT && no_model == NULL);
  options.max_memory = 0;
  options.threads = 1u << 30;
  CHECK(lt_open_demo(&options, &no_model) == LT_BAD_INPUT);
  options.threads = 0;
  options.max_seconds = -1;
  CHECK(lt_chat_new(model, &options, &chat) == LT_BAD_INPUT);
  options.max_seconds = 0;
  options.cache_type = "q9";
  CHECK(lt_chat_new(model, &options, &chat) == LT_BAD_INPUT && strstr(lt_error(), "q9"));
  options.cache_type = "q4_K";
  if (lt_chat_new(model, &options, &chat) == LT_OK) {
    CHECK(lt_chat_ask(chat, SHAPE, &answer) > LT_END);
    lt_chat_free(chat);
  }
  options.cache_type = NULL;
  options.temp = -0.0f / 0.0f;
  options.fps = 1e300;
  CHECK(lt_chat_new(model, &options, &chat) == LT_OK && lt_chat_video(chat, video) == LT_OK);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_BAD_INPUT);
  lt_chat_free(chat);
  CHECK(lt_chat_new(model, NULL, &chat) == LT_OK);
  CHECK(lt_chat_text(chat, "\xff\xfe") == LT_BAD_INPUT && strstr(lt_error(), "UTF-8"));
  CHECK(lt_chat_video(chat, "http://example.com/a.mp4") == LT_BAD_INPUT);
  CHECK(lt_chat_video(chat, "") == LT_BAD_INPUT);
  static uint8_t pixels[64 * 64 * 3 * 4];
  CHECK(lt_chat_frames(chat, pixels, 0, 64, 64, 2) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, pixels, 1, 0, 64, 2) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, pixels, 1, 1u << 31, 1u << 31, 2) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, pixels, UINT32_MAX, 64, 64, 2) == LT_LIMIT);
  CHECK(lt_chat_frames(chat, pixels, 4, 64, 64, -1) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, pixels, 4, 64, 64, 100) == LT_BAD_INPUT);
  CHECK(lt_chat_frames(chat, pixels, 4, 64, 64, 2) == LT_OK);
  lt_cost cost;
  CHECK(lt_chat_plan(chat, SHAPE, &cost) == LT_OK && cost.n_frames == 4);
  CHECK(lt_chat_system(chat, "Be brief.") == LT_OK && lt_chat_system(chat, "Be long.") == LT_BAD_INPUT);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  lt_answer_free(answer);
  // A file that is missing is told of by the question, and stays part of the next one.
  CHECK(lt_chat_video(chat, "no/such.mp4") == LT_OK && lt_chat_ask(chat, SHAPE, &answer) == LT_NOT_FOUND);
  lt_chat_free(chat);
}

static void order(const char *video) {
  lt_model *model = NULL;
  lt_chat *chat = NULL;
  lt_answer *answer = NULL, *other = NULL;
  const char *piece;
  size_t n;
  CHECK(lt_open_demo(NULL, &model) == LT_OK && *lt_model_warnings(model) == 0);
  CHECK(lt_chat_new(model, NULL, &chat) == LT_OK);
  // The model goes first, the chat before its answer.
  lt_model_free(model);
  CHECK(lt_chat_video(chat, video) == LT_OK && lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  CHECK(lt_chat_ask(chat, SHAPE, &other) == LT_BUSY && other == NULL);
  CHECK(lt_chat_text(chat, "more") == LT_BUSY);
  lt_chat_free(chat);
  char text[256];
  read_all(answer, text, sizeof text);
  CHECK(strcmp(text, "ring") == 0);
  for (int i = 0; i < 3; i++) CHECK(lt_answer_next(answer, &piece, &n) == LT_END && *piece == 0 && n == 0);
  uint32_t tokens[64];
  CHECK(lt_answer_tokens(answer, NULL, 0, &n) == LT_OK && n > 0 && n < 64);
  CHECK(lt_answer_tokens(answer, NULL, 1, &n) == LT_BAD_INPUT);
  CHECK(lt_answer_tokens(answer, tokens, 1, &n) == LT_OK && lt_answer_tokens(answer, tokens, 64, &n) == LT_OK);
  CHECK(lt_answer_stop(answer) == LT_OK && lt_answer_stop(answer) == LT_OK);
  lt_usage usage;
  CHECK(lt_answer_usage(answer, &usage) == LT_OK && usage.completion_tokens == n && usage.prompt_tokens > 1152);
  // Nobody asked it to look.
  lt_looked looked;
  CHECK(lt_answer_looked(answer, &looked, NULL, 0, &n) == LT_OK && n == 0 && looked.n_tokens == 0 && looked.media == 0);
  lt_answer_free(answer);
}

static void looks(lt_model *model, const char *video) {
  lt_options options = {.size = sizeof options, .look = 1};
  lt_chat *chat = NULL;
  lt_answer *answer = NULL;
  char text[256];
  size_t n;
  CHECK(lt_chat_new(model, &options, &chat) == LT_OK && lt_chat_video(chat, video) == LT_OK);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  read_all(answer, text, sizeof text);
  CHECK(strcmp(text, "ring") == 0);
  CHECK(lt_answer_looked(answer, NULL, NULL, 1, &n) == LT_BAD_INPUT && lt_answer_looked(answer, NULL, NULL, 0, NULL) == LT_BAD_INPUT);
  CHECK(lt_answer_looked(answer, NULL, NULL, 0, &n) == LT_OK && n == 8);
  lt_looked looked;
  lt_look one, pairs[9] = {{0}};
  CHECK(lt_answer_looked(answer, &looked, &one, 1, &n) == LT_OK && n == 8);
  CHECK(lt_answer_looked(answer, &looked, pairs, 9, &n) == LT_OK && n == 8 && pairs[8].to == 0);
  CHECK(memcmp(&one, pairs, sizeof one) == 0);
  double media = 0;
  for (uint32_t i = 0; i < n; i++) {
    CHECK(pairs[i].item == 0 && pairs[i].pair == i && pairs[i].from == i && pairs[i].to == i + 1 && pairs[i].stamp == 0);
    media += pairs[i].share;
  }
  double all = looked.media + looked.words + looked.first_token + looked.answer;
  CHECK(media > looked.media - 1e-9 && media < looked.media + 1e-9 && all > 1 - 1e-4 && all < 1 + 1e-4 && looked.n_tokens > 0);
  lt_answer_free(answer);
  lt_chat_free(chat);
}

static int32_t stop_there(void *user, const lt_progress *progress) {
  lt_chat **chat = user;
  lt_answer *answer = NULL;
  // From within: everything but a stop is refused, nothing waits.
  CHECK(lt_chat_ask(*chat, SHAPE, &answer) == LT_BUSY && lt_chat_text(*chat, "x") == LT_BUSY);
  return progress->stage == LT_TOKENS;
}

static void stops(lt_model *model, const char *video) {
  lt_chat *chat = NULL;
  lt_answer *answer = NULL;
  const char *piece;
  CHECK(lt_chat_new(model, NULL, &chat) == LT_OK && lt_chat_video(chat, video) == LT_OK);
  lt_chat_cancel(chat);
  lt_chat_cancel(chat);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_CANCELLED && lt_chat_ask(chat, SHAPE, &answer) == LT_CANCELLED);
  lt_chat_resume(chat);
  lt_chat_resume(chat);
  CHECK(lt_chat_on_progress(chat, stop_there, &chat) == LT_OK);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_CANCELLED && answer == NULL);
  lt_chat_resume(chat);
  CHECK(lt_chat_on_progress(chat, NULL, NULL) == LT_OK);
  asks_for_a_ring(chat);
  // In the middle of an answer: it is over, and the chat goes on.
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  lt_chat_cancel(chat);
  CHECK(lt_answer_next(answer, &piece, NULL) == LT_CANCELLED && *piece == 0);
  CHECK(lt_answer_next(answer, &piece, NULL) == LT_END);
  lt_chat_resume(chat);
  lt_answer_free(answer);
  CHECK(lt_chat_ask(chat, SHAPE, &answer) == LT_OK);
  lt_answer_free(answer);
  lt_chat_free(chat);
}

struct shared {
  lt_model *model;
  lt_chat *chat;
  const char *video;
  int n_done, n_busy, n_other;
  pthread_mutex_t lock;
};

static void *asks(void *user) {
  struct shared *shared = user;
  for (int i = 0; i < 4; i++) {
    lt_answer *answer = NULL;
    lt_status status = lt_chat_ask(shared->chat, SHAPE, &answer);
    if (status == LT_OK) {
      char text[2048];
      read_all(answer, text, sizeof text);
      lt_answer_free(answer);
    }
    pthread_mutex_lock(&shared->lock);
    if (status == LT_OK) shared->n_done++;
    else if (status == LT_BUSY) shared->n_busy++;
    else shared->n_other += status != LT_CANCELLED;
    pthread_mutex_unlock(&shared->lock);
  }
  return NULL;
}

static void *talks(void *user) {
  struct shared *shared = user;
  lt_chat *chat = NULL;
  CHECK(lt_chat_new(shared->model, NULL, &chat) == LT_OK && lt_chat_video(chat, shared->video) == LT_OK);
  asks_for_a_ring(chat);
  lt_chat_free(chat);
  return NULL;
}

static void *cancels(void *user) {
  struct shared *shared = user;
  for (int i = 0; i < 1000; i++) {
    lt_chat_cancel(shared->chat);
    lt_chat_resume(shared->chat);
  }
  return NULL;
}

static void threads(lt_model *model, const char *video) {
  struct shared shared = {.model = model, .video = video, .lock = PTHREAD_MUTEX_INITIALIZER};
  CHECK(lt_chat_new(model, NULL, &shared.chat) == LT_OK && lt_chat_video(shared.chat, video) == LT_OK);
  pthread_t all[6];
  for (int i = 0; i < 6; i++) CHECK(pthread_create(&all[i], NULL, i < 3 ? asks : i < 5 ? talks : cancels, &shared) == 0);
  for (int i = 0; i < 6; i++) CHECK(pthread_join(all[i], NULL) == 0);
  CHECK(shared.n_other == 0);
  lt_chat_free(shared.chat);
}

static void takes(lt_model *model, const char *video, const char *dir) {
  char path[4096];
  CHECK(snprintf(path, sizeof path, "%s/hostile.take", dir) < (int)sizeof path);
  lt_watched first, again;
  CHECK(lt_watch(model, video, path, NULL, NULL, NULL, &first) == LT_OK && first.n_before == 0);
  CHECK(lt_watch(model, video, path, NULL, NULL, NULL, &again) == LT_OK && again.n_before == first.n_tokens);
  lt_chat *chat = NULL, *other = NULL;
  CHECK(lt_chat_about(model, path, NULL, &chat) == LT_OK && lt_chat_about(model, path, NULL, &other) == LT_OK);
  asks_for_a_ring(chat);
  asks_for_a_ring(other);
  lt_chat_free(chat);
  lt_chat_free(other);
  // Another file is no take.
  CHECK(lt_chat_about(model, video, NULL, &chat) == LT_FORMAT);
  remove(path);
}

int main(int argc, char **argv) {
  CHECK(argc == 3 && strcmp(lt_version(), "") != 0 && strcmp(lt_error(), "") == 0);
  CHECK(lt_catch_file_signals() == LT_OK && lt_catch_file_signals() == LT_OK);
  lt_model *model = NULL;
  lt_chat *chat = NULL;
  CHECK(lt_open_demo(NULL, &model) == LT_OK && lt_chat_new(model, NULL, &chat) == LT_OK);
  nulls(model, chat);
  lt_chat_free(chat);
  numbers_and_text(model, argv[1]);
  order(argv[1]);
  looks(model, argv[1]);
  stops(model, argv[1]);
  threads(model, argv[1]);
  takes(model, argv[1], argv[2]);
  lt_model_free(model);
  printf("%d checks\n", n_checks);
  return 0;
}
