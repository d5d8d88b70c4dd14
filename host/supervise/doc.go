// Package supervise starts, watches, restarts and stops plugin processes. No other package of the host
// deals with processes of plugins.
//
// A [Supervisor] has what the plugins of a run share: a private folder for sockets, the log folder,
// timeouts and the restart budget. A [Launch] describes what to run. [Supervisor.Start] turns it into a
// [Process] with mutual TLS, a process group, a lifeline and an allow-listed environment. A [ProcessWorker]
// keeps one plugin alive: it returns the live, configured client, replaces a process that died or failed,
// and gives up when the restart budget is spent. Its clients apply [Deadlines] and report failures to it,
// so the rest of the host uses plain env.Env, policy.Policy and encoder.Encoder values.
//
// The packages below produce a Launch: manifest (plugin.toml), catalog (the package that a name means),
// lock (srpo.lock) and pyenv (Python environments). [Preparer] combines them.
//
// # How no process is left behind
//
// A plugin leads a process group. A watcher waits for the leader and leaves it a zombie, so that the id of
// the process group cannot be reused while the group is killed. On Linux, children that moved to another
// session are found by a variable in their environment. When the host itself is killed, the end of file on
// the lifeline pipe makes the SDK kill the group, and the next host that starts removes what earlier hosts
// left.
package supervise
