// Package supervise starts, watches, restarts and stops plugin processes. Nothing else in the host knows that plugins are processes.
//
// A [Supervisor] holds what a run's plugins share: a private folder for their sockets, the log folder, time-outs and the restart budget. A [Launch] says
// what to run; [Supervisor.Start] turns it into a [Process], with mutual TLS, a process group of its own, a lifeline and an allow-listed environment. A
// [ProcessWorker] keeps one plugin alive: it hands out the live, configured client, replaces a process that died or must be replaced, and gives up when the
// restart budget is spent. The clients that it hands out carry the deadlines of [Deadlines] and report failures by themselves, so the rest of the host
// sees plain env.Env, policy.Policy and encoder.Encoder values.
//
// Where a Launch comes from is the business of the packages below: manifest (plugin.toml), catalog (which package a name means), lock (srpo.lock) and
// pyenv (Python environments); [Preparer] puts them together.
//
// # What keeps processes from being left behind
//
// A plugin leads a process group. A watcher waits for the leader with waitid(WNOWAIT), which leaves it a zombie, so that its process group id cannot be
// given to somebody else while the group is being killed. Whatever moved to another session is found by a variable in its environment. If the host itself
// is killed, the end of the lifeline pipe tells the SDK to kill the group, and the next host that starts sweeps up what belongs to hosts that are gone.
package supervise
