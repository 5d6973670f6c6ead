// Asks about a video: ask MODEL.gguf VIDEO "QUESTION"; without a model (`ask - VIDEO QUESTION`), the one that the library carries.
//
//     cc ask.c -o ask $(pkg-config --cflags --libs longtake)

#include <longtake.h>
#include <stdio.h>
#include <string.h>

static int failed(void) {
  fprintf(stderr, "error: %s\n", lt_error());
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: %s MODEL.gguf|- VIDEO QUESTION\n", argv[0]);
    return 2;
  }
  // Zeros are defaults.
  lt_options options = {.size = sizeof options, .max_memory = 4ull << 30};
  lt_model *model = NULL;
  lt_chat *chat = NULL;
  lt_answer *answer = NULL;
  lt_status status = strcmp(argv[1], "-") == 0 ? lt_open_demo(&options, &model) : lt_open(argv[1], &options, &model);
  if (status != LT_OK) return failed();

  int code = 1;
  if (lt_chat_new(model, NULL, &chat) == LT_OK && lt_chat_video(chat, argv[2]) == LT_OK) {
    // What it will take, before any of it is read.
    lt_cost cost;
    if (lt_chat_plan(chat, argv[3], &cost) == LT_OK) {
      fprintf(stderr, "%llu frames, %llu tokens, %llu MiB\n", (unsigned long long)cost.n_frames,
              (unsigned long long)cost.n_tokens, (unsigned long long)(cost.memory >> 20));
      if (*cost.reduced != 0) fprintf(stderr, "reduced: %s\n", cost.reduced);
      if (lt_chat_ask(chat, argv[3], &answer) == LT_OK) {
        const char *piece;
        while ((status = lt_answer_next(answer, &piece, NULL)) == LT_OK) {
          fputs(piece, stdout);
          fflush(stdout);
        }
        putchar('\n');
        code = status != LT_END;
      }
    }
  }
  if (code != 0) failed();
  // In any order; null is nothing.
  lt_answer_free(answer);
  lt_chat_free(chat);
  lt_model_free(model);
  return code;
}
