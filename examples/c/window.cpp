// How a program with a window asks, in C++17: handles that free themselves, an answer on a thread of its own, a button that stops it.
//
//     c++ -std=c++17 window.cpp -o window $(pkg-config --cflags --libs longtake) -pthread

#include <longtake.h>

#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

struct Free {
  void operator()(lt_model *model) const { lt_model_free(model); }
  void operator()(lt_chat *chat) const { lt_chat_free(chat); }
  void operator()(lt_answer *answer) const { lt_answer_free(answer); }
};
using Model = std::unique_ptr<lt_model, Free>;
using Chat = std::unique_ptr<lt_chat, Free>;
using Answer = std::unique_ptr<lt_answer, Free>;

void check(lt_status status) {
  if (status != LT_OK) throw std::runtime_error(lt_error());
}

Model open(const std::string &path) {
  lt_model *model = nullptr;
  check(path == "-" ? lt_open_demo(nullptr, &model) : lt_open(path.c_str(), nullptr, &model));
  return Model(model);
}

Chat about(const Model &model, const std::string &video) {
  lt_chat *chat = nullptr;
  check(lt_chat_new(model.get(), nullptr, &chat));
  Chat owned(chat);
  check(lt_chat_video(chat, video.c_str()));
  return owned;
}

std::string ask(const Chat &chat, const std::string &question) {
  lt_answer *begun = nullptr;
  check(lt_chat_ask(chat.get(), question.c_str(), &begun));
  Answer answer(begun);
  std::string text;
  const char *piece = nullptr;
  size_t length = 0;
  lt_status status = LT_OK;
  while ((status = lt_answer_next(answer.get(), &piece, &length)) == LT_OK) text.append(piece, length);
  if (status != LT_END) throw std::runtime_error(lt_error());
  return text;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " MODEL.gguf|- VIDEO QUESTION\n";
    return 2;
  }
  try {
    Model model = open(argv[1]);
    Chat chat = about(model, argv[2]);
    model.reset();  // the chat keeps what it needs

    auto text = std::async(std::launch::async, ask, std::cref(chat), std::string(argv[3]));
    // Here the window would go on being drawn.
    std::cout << text.get() << '\n';

    // The button: what runs, and what is asked next, ends with an error, until the chat may go on.
    lt_chat_cancel(chat.get());
    try {
      ask(chat, argv[3]);
      std::cerr << "it was not stopped\n";
      return 1;
    } catch (const std::runtime_error &error) {
      std::cerr << error.what() << '\n';
    }
    lt_chat_resume(chat.get());
    std::cout << ask(chat, argv[3]) << '\n';
    return 0;
  } catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
