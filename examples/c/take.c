// Watches a video once, into a take file, then asks about it as another program could on another day. A talk of several questions,
// progress as it comes, and a stop by Ctrl-C that loses nothing: the same command goes on.
//
//     take MODEL.gguf|- VIDEO TAKE QUESTION...

#include <longtake.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static volatile sig_atomic_t stopped;

static void stop(int signal) {
  (void)signal;
  stopped = 1;
}

// Called on this thread, within lt_watch and lt_chat_ask; what is not 0 stops them.
static int32_t progress(void *user, const lt_progress *now) {
  (void)user;
  if (now->stage == LT_TOKENS) {
    fprintf(stderr, "\r%llu of %llu tokens", (unsigned long long)now->done, (unsigned long long)now->total);
    if (now->done == now->total) fputc('\n', stderr);
  }
  return stopped;
}

static int ask(lt_chat *chat, const char *question) {
  lt_answer *answer;
  if (lt_chat_ask(chat, question, &answer) != LT_OK) return 1;
  printf("%s ", question);
  const char *piece;
  lt_status status;
  while ((status = lt_answer_next(answer, &piece, NULL)) == LT_OK && !stopped) fputs(piece, stdout);
  lt_usage usage;
  if (lt_answer_usage(answer, &usage) == LT_OK)
    printf(" (%llu tokens, %llu of them read before)\n", (unsigned long long)usage.prompt_tokens,
           (unsigned long long)usage.cached_tokens);
  lt_answer_free(answer);
  return status != LT_END;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: %s MODEL.gguf|- VIDEO TAKE QUESTION...\n", argv[0]);
    return 2;
  }
  signal(SIGINT, stop);
  // From here on a file that somebody cuts short is an error, and not the end of the process.
  lt_catch_file_signals();
  lt_model *model = NULL;
  lt_chat *chat = NULL;
  int failed = strcmp(argv[1], "-") == 0 ? lt_open_demo(NULL, &model) : lt_open(argv[1], NULL, &model);
  if (!failed) failed = lt_watch(model, argv[2], argv[3], NULL, progress, NULL, NULL);
  if (!failed) failed = lt_chat_about(model, argv[3], NULL, &chat);
  if (!failed) failed = lt_chat_on_progress(chat, progress, NULL);
  for (int i = 4; i < argc && !failed; i++) failed = ask(chat, argv[i]);
  if (failed && stopped) fputs("stopped\n", stderr);
  if (failed && !stopped) fprintf(stderr, "error: %s\n", lt_error());
  lt_chat_free(chat);
  lt_model_free(model);
  return failed != 0;
}
