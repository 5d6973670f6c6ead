// Prints the tokens of one answer as a list of numbers, for who compares the doors: tokens MODEL.gguf MMPROJ.gguf VIDEO QUESTION N TEMP

#include <longtake.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  lt_options options = {.size = sizeof options, .mmproj = argv[2], .max_tokens = (uint32_t)atoi(argv[5])};
  // Drawn from all there are, where they are.
  options.temp = (float)atof(argv[6]);
  options.seed = 7, options.top_p = 1, options.min_p = 1e-9f, options.top_k = 1 << 20;
  lt_model *model = NULL;
  lt_chat *chat = NULL;
  lt_answer *answer = NULL;
  const char *piece;
  lt_status status = lt_open(argv[1], &options, &model);
  if (status == LT_OK) status = lt_chat_new(model, NULL, &chat);
  if (status == LT_OK) status = lt_chat_video(chat, argv[3]);
  if (status == LT_OK) status = lt_chat_ask(chat, argv[4], &answer);
  while (status == LT_OK) status = lt_answer_next(answer, &piece, NULL);
  if (status != LT_END) {
    fprintf(stderr, "error: %s\n", lt_error());
    return 1;
  }
  static uint32_t tokens[1 << 16];
  size_t n = 0;
  if (lt_answer_tokens(answer, tokens, sizeof tokens / sizeof *tokens, &n) != LT_OK) return 1;
  for (size_t i = 0; i < n; i++) printf("%s%u", i == 0 ? "[" : ", ", (unsigned)tokens[i]);
  puts(n == 0 ? "[]" : "]");
  lt_answer_free(answer);
  lt_chat_free(chat);
  lt_model_free(model);
  return 0;
}
