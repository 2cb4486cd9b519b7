#include "reactor/address.h"

#include <net/if.h>
#include <netinet/in.h>

#include <sstream>
#include <string>
#include <vector>

#include "absl/hash/hash_testing.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace reactor {
namespace {

using testing::HasSubstr;

Address Parsed(absl::string_view ip, int port = 0) {
  const auto address = Address::Parse(ip, port);
  EXPECT_TRUE(address.ok()) << address.status();
  return address.value_or(Address());
}

TEST(Address, ParsesAndPrintsBothFamilies) {
  EXPECT_EQ(Parsed("127.0.0.1", 80).ToString(), "127.0.0.1:80");
  EXPECT_EQ(Parsed("127.0.0.1").family, AF_INET);
  EXPECT_EQ(Parsed("0:0:0:0:0:0:0:1", 65535).ToString(), "[::1]:65535");
  EXPECT_EQ(Parsed("::1").family, AF_INET6);
  EXPECT_EQ(Parsed("2001:DB8::7").IpString(), "2001:db8::7");
  EXPECT_EQ(Parsed("fe80::1%7", 80).ToString(), "[fe80::1%7]:80");
  EXPECT_EQ(Parsed("fe80::1%7").scope_id, 7u);
  EXPECT_EQ(Address().ToString(), "none");
  EXPECT_EQ(Address().IpString(), "none");
  std::ostringstream out;
  out << Parsed("127.0.0.1", 80);
  EXPECT_EQ(out.str(), "127.0.0.1:80");
}

TEST(Address, AScopeMayBeTheNameOfAnInterface) {
  char name[IF_NAMESIZE];
  if (if_indextoname(1, name) == nullptr) GTEST_SKIP() << "there is no interface";
  EXPECT_EQ(Parsed(std::string("fe80::1%") + name).scope_id, 1u);
  const auto none = Address::Parse("fe80::1%no-such-if");
  EXPECT_TRUE(absl::IsInvalidArgument(none.status()));
  EXPECT_THAT(none.status().message(), HasSubstr("no network interface \"no-such-if\""));
}

TEST(Address, WhatIsNoAddressIsInvalidArgument) {
  for (const absl::string_view ip :
       {"", "localhost", "127.0.0.1.", " 127.0.0.1", "127.1", "256.0.0.1", "[::1]", "::1%", "%1",
        "fe80::1% 1", "127.0.0.1%1", ":::", "1.2.3.4:80",
        "fe80::1%an-interface-name-that-is-too-long"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Address::Parse(ip).status())) << ip;
  }
  // The part before the NUL would be one.
  EXPECT_FALSE(Address::Parse(absl::string_view("127.0.0.1\0.evil", 15)).ok());
  EXPECT_FALSE(Address::Parse(absl::string_view("::1\0", 4)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Address::Parse("::1", -1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Address::Parse("::1", 65536).status()));
}

TEST(Address, GoesToASockaddrAndBack) {
  for (const Address& address :
       {Parsed("192.0.2.1", 8080), Parsed("2001:db8::1", 443), Parsed("fe80::1%3", 1)}) {
    sockaddr_storage storage;
    const socklen_t size = address.ToSockaddr(storage);
    EXPECT_EQ(size, address.family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    EXPECT_EQ(storage.ss_family, address.family);
    const auto back = Address::FromSockaddr(reinterpret_cast<sockaddr*>(&storage), size);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, address);
    EXPECT_FALSE(Address::FromSockaddr(reinterpret_cast<sockaddr*>(&storage), size - 1).ok());
  }
  sockaddr_storage storage;
  EXPECT_EQ(Address().ToSockaddr(storage), 0u);
  EXPECT_FALSE(Address::FromSockaddr(reinterpret_cast<sockaddr*>(&storage), sizeof(storage)).ok());
  EXPECT_FALSE(Address::FromSockaddr(nullptr, 0).ok());
}

TEST(Address, IsComparedAndHashedByAllOfIt) {
  const std::vector<Address> all = {
      Address(),     Parsed("127.0.0.1"), Parsed("127.0.0.1", 80), Parsed("127.0.0.2"),
      Parsed("::1"), Parsed("fe80::1"),   Parsed("fe80::1%1")};
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < all.size(); ++j) {
      EXPECT_EQ(all[i] == all[j], i == j);
      EXPECT_EQ(all[i] < all[j] || all[j] < all[i], i != j);
    }
  }
  EXPECT_TRUE(absl::VerifyTypeImplementsAbslHashCorrectly(all));
}

}  // namespace
}  // namespace reactor
