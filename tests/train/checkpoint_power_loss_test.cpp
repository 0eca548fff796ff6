// SPDX-License-Identifier: Apache-2.0
// The power fails after the N-th file system call of a save, for every N. What the disk then holds is played
// from a record of the calls: a file's bytes are safe once it was synced, a name once its folder was; of the
// rest any part may be there.
#include <random>
#include <utility>
#include <variant>

#include <gtest/gtest.h>

#include "framework/train/checkpoint.hpp"
#include "tests/support/fault_shim.h"
#include "tests/support/temp_folder.hpp"
#include "tests/train/sample_state.hpp"

namespace kumiko {
namespace {

using test::TempFolder;

struct Call {
  std::string name;
  std::string path;
  std::string other;
  long offset = 0;
  std::string bytes;
};

std::vector<Call> recorded;

void record(const char* name, const char* path, const char* other, long offset, const void* bytes,
            unsigned long count) {
  recorded.push_back(
      {name, path, other != nullptr ? other : "", offset,
       bytes != nullptr ? std::string(static_cast<const char*>(bytes), count) : std::string()});
}

std::string parent_of(const std::string& path) { return std::filesystem::path(path).parent_path().string(); }

// A file's bytes as the program sees them and as the disk is sure to have them.
struct Content {
  std::string seen;
  std::string safe;
};

// Names and what they stand for; a folder is a null content.
class Names {
 public:
  using Node = std::shared_ptr<Content>;

  static Names of(const std::filesystem::path& root) {
    Names names;
    names.nodes_[root.string()] = nullptr;
    for (const auto& item : std::filesystem::recursive_directory_iterator(root)) {
      Node node;
      if (!item.is_directory())
        node = std::make_shared<Content>(
            Content{test::read_text(item.path()), test::read_text(item.path())});
      names.nodes_[item.path().string()] = node;
    }
    return names;
  }

  bool has(const std::string& path) const { return nodes_.contains(path); }
  Node at(const std::string& path) const { return nodes_.at(path); }

  void add(const std::string& path, Node node) {
    if (has(parent_of(path)) && !has(path)) nodes_[path] = std::move(node);
  }
  void remove(const std::string& path) { take(path); }
  void rename(const std::string& from, const std::string& to) {
    if (!has(from) || !has(parent_of(to))) return;
    auto moved = take(from);
    take(to);
    put(moved, from, to);
  }
  void exchange(const std::string& one, const std::string& other) {
    if (!has(one) || !has(other)) return;
    auto first = take(one);
    auto second = take(other);
    put(first, one, other);
    put(second, other, one);
  }

  // Makes the files below `root` of this record below `to`. Of bytes that are not safe the share `torn` is
  // there.
  void write(const std::string& root, const std::filesystem::path& to, double torn) const {
    for (const auto& [path, node] : nodes_) {
      const auto target = to / std::filesystem::path(path).lexically_relative(root);
      if (!node) {
        std::filesystem::create_directories(target);
        continue;
      }
      const auto length = node->safe == node->seen
                              ? node->seen.size()
                              : static_cast<std::size_t>(torn * static_cast<double>(node->seen.size()));
      test::write_text(target, node->seen.substr(0, length));
    }
  }

 private:
  using Nodes = std::map<std::string, Node>;
  Nodes take(const std::string& path) {
    Nodes taken;
    for (auto item = nodes_.begin(); item != nodes_.end();) {
      const bool inside = item->first == path || item->first.starts_with(path + "/");
      if (inside) taken.insert(*item);
      item = inside ? nodes_.erase(item) : std::next(item);
    }
    return taken;
  }
  void put(const Nodes& nodes, const std::string& from, const std::string& to) {
    for (const auto& [path, node] : nodes) nodes_[to + path.substr(from.size())] = node;
  }

  Nodes nodes_;
};

// One change of names, and the folders whose sync makes it safe.
struct Change {
  std::function<void(Names&)> apply;
  std::vector<std::string> folders;
  bool safe = false;
};

Change change_of(const Call& call) {
  if (call.name == "mkdir")
    return {[=](Names& names) { names.add(call.path, nullptr); }, {parent_of(call.path)}};
  if (call.name == "rename")
    return {[=](Names& names) { names.rename(call.path, call.other); }, {parent_of(call.path)}};
  if (call.name == "exchange")
    return {[=](Names& names) { names.exchange(call.path, call.other); }, {parent_of(call.path)}};
  return {[=](Names& names) { names.remove(call.path); }, {parent_of(call.path)}};
}

class Disk {
 public:
  explicit Disk(const std::filesystem::path& root) : first_(Names::of(root)), now_(Names::of(root)) {}

  void play(const Call& call) {
    if (call.name == "write") {
      if (!now_.has(call.path)) create(call.path);
      std::string& seen = now_.at(call.path)->seen;
      seen.resize(std::max(seen.size(), static_cast<std::size_t>(call.offset) + call.bytes.size()));
      seen.replace(static_cast<std::size_t>(call.offset), call.bytes.size(), call.bytes);
    } else if (call.name == "fsync") {
      sync(call.path);
    } else {
      changes_.push_back(change_of(call));
      changes_.back().apply(now_);
    }
  }

  // What may be on the disk: all safe changes and those others that `keeps` chooses.
  Names after_power_loss(const std::function<bool()>& keeps) const {
    Names names = first_;
    for (const Change& change : changes_) {
      if (change.safe || keeps()) change.apply(names);
    }
    return names;
  }

 private:
  void create(const std::string& path) {
    const auto content = std::make_shared<Content>();
    changes_.push_back({[=](Names& names) { names.add(path, content); }, {parent_of(path)}});
    changes_.back().apply(now_);
  }
  void sync(const std::string& path) {
    if (now_.has(path) && now_.at(path)) {
      now_.at(path)->safe = now_.at(path)->seen;
      return;
    }
    for (Change& change : changes_) {
      if (std::find(change.folders.begin(), change.folders.end(), path) != change.folders.end())
        change.safe = true;
    }
  }

  Names first_;
  Names now_;
  std::vector<Change> changes_;
};

std::int64_t newest_after(const Names& names, const std::string& root, double torn) {
  TempFolder disk;
  names.write(root, disk.path(), torn);
  const auto newest = newest_checkpoint(disk.path(), {});
  if (!newest) return -1;
  EXPECT_EQ(test::differs_from_sample(*newest, newest->manifest().step), "");
  return newest->manifest().step;
}

class SaveUnderPowerLoss : public ::testing::Test {
 protected:
  // Saves steps 10 and 20, hands out the disk as it is then, and records the calls of saving step 30.
  Disk record_third_save() {
    CheckpointStore store(root_, {.keep = 2, .file_bytes = 20000});
    EXPECT_TRUE(test::save_sample(store, 10).saved);
    EXPECT_TRUE(test::save_sample(store, 20).saved);
    Disk disk(root_);
    recorded.clear();
    fault_arm(fault_none, 0, 0);
    fault_observe(record);
    EXPECT_TRUE(test::save_sample(store, 30).saved);
    fault_observe(nullptr);
    EXPECT_GT(recorded.size(), 15u);
    return disk;
  }
  // The newest step when nothing is on the disk but what is sure to be.
  std::int64_t newest_surely(const Disk& disk) const {
    return newest_after(disk.after_power_loss([] { return false; }), root_, 0.0);
  }

  TempFolder run_;
  std::string root_ = std::filesystem::canonical(run_.path()).string();
};

TEST_F(SaveUnderPowerLoss, LosesNothingAtAnyCall) {
  Disk disk = record_third_save();
  std::mt19937 random(3);
  std::int64_t surely = 20;
  for (const Call& call : recorded) {
    SCOPED_TRACE(call.name + " " + call.path);
    disk.play(call);
    const std::int64_t pessimist = newest_surely(disk);
    EXPECT_GE(pessimist, surely);
    surely = pessimist;
    EXPECT_GE(newest_after(disk.after_power_loss([] { return true; }), root_, 0.0), surely);
    EXPECT_GE(newest_after(disk.after_power_loss([] { return true; }), root_, 0.5), surely);
    for (int trial = 0; trial < 4; ++trial) {
      EXPECT_GE(newest_after(disk.after_power_loss([&] { return random() % 2 == 0; }), root_, trial / 3.0),
                surely);
    }
  }

  EXPECT_EQ(surely, 30);
}

// Were the checks above blind, a save that leaves out a sync would pass them too.
TEST_F(SaveUnderPowerLoss, WouldShowAMissingSync) {
  const Disk before = record_third_save();
  int needed = 0;
  for (std::size_t left_out = 0; left_out < recorded.size(); ++left_out) {
    if (recorded[left_out].name != "fsync") continue;
    Disk disk = Disk(before);
    for (std::size_t i = 0; i < recorded.size(); ++i) {
      if (i != left_out) disk.play(recorded[i]);
    }
    needed += newest_surely(disk) != 30 ? 1 : 0;
  }

  EXPECT_GE(needed, 3);  // the manifest, a state file, the folder of checkpoints
}

}  // namespace
}  // namespace kumiko
