// A cap on memory is planned and kept: the video is made smaller until it fits, a second chat gets what the first one left, and the
// process never has more than the cap, by the system's own account.
//
//     memory MODEL.gguf VIDEO MIB         ends with 1 where it is not so

#include <longtake.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void check(int good, const char *what) {
  if (good) return;
  fprintf(stderr, "%s: %s\n", what, lt_error());
  exit(1);
}

int main(int argc, char **argv) {
  check(argc == 4, "usage: memory MODEL.gguf VIDEO MIB");
  const unsigned long long cap = strtoull(argv[3], NULL, 10) << 20;
  lt_options options = {.size = sizeof options, .max_memory = cap, .max_tokens = 64, .reserve = 256};
  lt_model *model = NULL;
  lt_chat *first = NULL, *second = NULL, *third = NULL;
  lt_answer *answer = NULL;
  const char *piece;
  lt_cost cost, less;
  check(lt_open(argv[1], &options, &model) == LT_OK, "open");
  check(lt_chat_new(model, NULL, &first) == LT_OK && lt_chat_video(first, argv[2]) == LT_OK, "chat");
  check(lt_chat_plan(first, "What is it?", &cost) == LT_OK, "plan");
  check(cost.memory <= cap && *cost.reduced != 0, "the plan is no smaller than the video");
  printf("planned %llu of %llu KiB: %s\n", (unsigned long long)cost.memory >> 10, cap >> 10, cost.reduced);
  check(lt_chat_ask(first, "What is it?", &answer) == LT_OK, "ask");
  while (lt_answer_next(answer, &piece, NULL) == LT_OK) {}
  lt_answer_free(answer);
  // Another picture in the same chat stays within, too, or is refused.
  check(lt_chat_video(first, argv[2]) == LT_OK, "video");
  lt_status status = lt_chat_ask(first, "And this?", &answer);
  check(status == LT_OK || status == LT_LIMIT, "ask again");
  if (status == LT_OK) lt_answer_free(answer);
  // Others have what is left of it: nothing, or less.
  check(lt_chat_new(model, NULL, &second) == LT_OK && lt_chat_video(second, argv[2]) == LT_OK, "second chat");
  status = lt_chat_plan(second, "What is it?", &less);
  check(status == LT_LIMIT || (status == LT_OK && less.memory + cost.cache + cost.working <= cap), "second plan");
  lt_chat_free(first);
  lt_chat_free(second);
  check(lt_chat_new(model, NULL, &third) == LT_OK && lt_chat_video(third, argv[2]) == LT_OK, "third chat");
  check(lt_chat_plan(third, "What is it?", &less) == LT_OK && less.memory == cost.memory, "it was not given back");
  lt_chat_free(third);
  lt_model_free(model);
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("at the peak %ld KiB\n", usage.ru_maxrss);
  check((unsigned long long)usage.ru_maxrss << 10 <= cap, "more than the cap was in use");
  return 0;
}
