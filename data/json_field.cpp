// SPDX-License-Identifier: Apache-2.0
#include "data/json_field.hpp"

#include <nlohmann/json.hpp>

namespace kumiko::data {
namespace {

constexpr int kMaxDepth = 512;

class FieldFinder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  FieldFinder(std::string_view key, JsonField& result) : key_(key), result_(result) {}

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t) override { return other(); }
  bool number_float(number_float_t, const string_t&) override { return other(); }
  bool binary(binary_t&) override { return other(); }

  bool string(string_t& value) override {
    if (!wanted_) return other();
    wanted_ = false;
    result_.status = JsonFieldStatus::found;
    result_.value = std::move(value);
    return true;
  }
  bool key(string_t& value) override {
    wanted_ = depth_ == 1 && value == key_ && result_.status == JsonFieldStatus::missing;
    return true;
  }
  bool start_object(std::size_t) override { return enter(true); }
  bool start_array(std::size_t) override { return enter(false); }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at ...": the part for people.
    const std::string_view text = error.what();
    const std::size_t end = text.find("] ");
    malformed(std::string(end == std::string_view::npos ? text : text.substr(end + 2)));
    return false;
  }

 private:
  bool other() {
    if (depth_ == 0) result_.status = JsonFieldStatus::no_object;
    if (wanted_) result_.status = JsonFieldStatus::not_text;
    wanted_ = false;
    return true;
  }
  bool enter(bool object) {
    if (depth_ == 0 && !object) result_.status = JsonFieldStatus::no_object;
    if (wanted_) result_.status = JsonFieldStatus::not_text;
    wanted_ = false;
    if (++depth_ <= kMaxDepth) return true;
    malformed("nested too deep");
    return false;
  }
  void malformed(std::string problem) {
    result_.status = JsonFieldStatus::malformed;
    result_.problem = std::move(problem);
  }

  std::string_view key_;
  JsonField& result_;
  int depth_ = 0;
  bool wanted_ = false;
};

}  // namespace

JsonField read_json_field(std::string_view line, std::string_view key) {
  JsonField result;
  FieldFinder finder(key, result);
  nlohmann::json::sax_parse(line, &finder);
  return result;
}

}  // namespace kumiko::data
