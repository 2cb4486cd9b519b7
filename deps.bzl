"""What iworker is built from, for this workspace and for those that depend on it.

The one place that names a version, its sum, and the two routes to it: the public
archive, and the distribution's source package that tools/bazel takes where there
is a package mirror but no other network.
"""

load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")
load("@bazel_tools//tools/build_defs/repo:utils.bzl", "maybe")

# `debian` is a source package; `debian_sha256` the sum of its tarball: the same as
# `sha256` where Debian ships the public archive untouched. `debian_path` is a folder that
# a binary package installs. What has neither is made by tools/offline_repositories.
DEPENDENCIES = [
    {
        "name": "com_google_absl",
        "version": "20220623.1",
        "url": "https://github.com/abseil/abseil-cpp/archive/refs/tags/20220623.1.tar.gz",
        "sha256": "91ac87d30cc6d79f9ab974c51874a704de9c2647c40f6932597329a282217ba8",
        "strip_prefix": "abseil-cpp-20220623.1",
        "debian": "abseil",
        "debian_sha256": "abfe2897f3a30edaa74bc34365afe3c2a3cd012091a97dc7e008f7016adcd5fe",
    },
    {
        "name": "com_google_googletest",
        "version": "1.12.1",
        "url": "https://github.com/google/googletest/archive/refs/tags/release-1.12.1.tar.gz",
        "sha256": "81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2",
        "strip_prefix": "googletest-release-1.12.1",
        "debian": "googletest",
        "debian_sha256": "81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2",
    },
    {
        "name": "com_github_google_benchmark",
        "version": "1.7.1",
        "url": "https://github.com/google/benchmark/archive/refs/tags/v1.7.1.tar.gz",
        "sha256": "6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7",
        "strip_prefix": "benchmark-1.7.1",
        "debian": "benchmark",
        "debian_sha256": "6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7",
    },
    {
        "name": "bazel_skylib",
        "version": "1.2.1",
        "url": "https://github.com/bazelbuild/bazel-skylib/releases/download/1.2.1/bazel-skylib-1.2.1.tar.gz",
        "sha256": "f7be3474d42aae265405a592bb7da8e171919d74c16f082a5457840f06054728",
        "strip_prefix": "",
        "debian_path": "/usr/share/bazel/tools/skylib",
    },
    {
        "name": "platforms",
        "version": "0.0.6",
        "url": "https://github.com/bazelbuild/platforms/releases/download/0.0.6/platforms-0.0.6.tar.gz",
        "sha256": "5308fc1d8865406a49427ba24a9ab53087f17f5266a7aabbfc28823f3916e1ca",
        "strip_prefix": "",
        "debian_path": "/usr/share/bazel/tools/platforms",
    },
    {
        "name": "rules_cc",
        "version": "0.0.9",
        "url": "https://github.com/bazelbuild/rules_cc/releases/download/0.0.9/rules_cc-0.0.9.tar.gz",
        "sha256": "2037875b9a4456dce4a79d112a8ae885bbc4aad968e6587dca6e64f3a0900cdf",
        "strip_prefix": "rules_cc-0.0.9",
    },
]

def iworker_deps():
    """Declares every repository that @iworker needs and the caller has not declared yet."""
    for dependency in DEPENDENCIES:
        maybe(
            http_archive,
            name = dependency["name"],
            sha256 = dependency["sha256"],
            strip_prefix = dependency["strip_prefix"],
            urls = [dependency["url"]],
        )
