"""Tests that decide which thread goes on."""

def _with_simulation(_settings, _attr):
    return {"//workers:simulation": True}

_simulation = transition(
    implementation = _with_simulation,
    inputs = [],
    outputs = ["//workers:simulation"],
)

def _simulated_test_impl(ctx):
    test = ctx.attr.test[0][DefaultInfo]
    executable = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(
        output = executable,
        target_file = test.files_to_run.executable,
        is_executable = True,
    )
    return [DefaultInfo(executable = executable, runfiles = test.default_runfiles)]

simulated_test = rule(
    implementation = _simulated_test_impl,
    doc = "Runs `test`, with the whole program built under --//workers:simulation.",
    attrs = {
        "test": attr.label(cfg = _simulation, mandatory = True),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
    test = True,
)
