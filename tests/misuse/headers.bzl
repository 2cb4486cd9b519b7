"""The headers that a library is compiled with, as files that a test can use."""

def _headers_impl(ctx):
    headers = depset(transitive = [
        dep[CcInfo].compilation_context.headers
        for dep in ctx.attr.deps
    ])
    return [DefaultInfo(files = headers, runfiles = ctx.runfiles(transitive_files = headers))]

headers = rule(
    implementation = _headers_impl,
    doc = "Collects all headers that `deps` and what they depend on are compiled with.",
    attrs = {"deps": attr.label_list(providers = [CcInfo])},
)
