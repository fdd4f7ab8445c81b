"""The other side of the old dialect: a desktop app and an SDK that behave as the originals do, written by us.

`desktop` starts the app (Node, `desktop_app/server.js`); `old_sdk` is the SDK, `old_programs` are programs on
it, and `old_environment` is a Python with the packages that the original was pinned to.
"""
