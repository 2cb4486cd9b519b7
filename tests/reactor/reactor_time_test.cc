#include "reactor/reactor_time.h"

#include <memory>

#include "gtest/gtest.h"

namespace reactor {
namespace {

class Recorded final : public DelayedCall::Entry {
 public:
  bool active() const override { return active_; }
  absl::Duration time() const override { return time_; }
  absl::Status Cancel() override {
    active_ = false;
    return absl::OkStatus();
  }
  absl::Status Reset(absl::Duration from_now) override {
    time_ = from_now;
    return absl::OkStatus();
  }
  absl::Status Delay(absl::Duration more) override {
    time_ += more;
    return absl::OkStatus();
  }

 private:
  bool active_ = true;
  absl::Duration time_ = absl::Seconds(1);
};

TEST(DelayedCall, OfNoCallIsNeverActive) {
  DelayedCall none;
  EXPECT_FALSE(none.active());
  EXPECT_EQ(none.time(), absl::ZeroDuration());
  EXPECT_TRUE(absl::IsFailedPrecondition(none.Cancel()));
  EXPECT_TRUE(absl::IsFailedPrecondition(none.Reset(absl::Seconds(1))));
  EXPECT_TRUE(absl::IsFailedPrecondition(none.Delay(absl::Seconds(1))));
}

TEST(DelayedCall, CopiesStandForTheSameCall) {
  DelayedCall call(std::make_shared<Recorded>());
  DelayedCall copy = call;
  EXPECT_TRUE(call.Reset(absl::Seconds(5)).ok());
  EXPECT_TRUE(copy.Delay(absl::Seconds(2)).ok());
  EXPECT_EQ(call.time(), absl::Seconds(7));
  EXPECT_TRUE(copy.Cancel().ok());
  EXPECT_FALSE(call.active());
}

}  // namespace
}  // namespace reactor
