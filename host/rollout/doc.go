// Package rollout rolls out episodes: a plan's tasks become groups, groups become episodes, and lanes roll the
// episodes.
//
// Each lane is a goroutine. It takes the next episode in the order of ids, resets its env, asks the episode's
// actor for actions, steps, and repeats this until the episode is done. No lane waits for another. One batcher
// asks the policy for the actions of all lanes that wait when the policy becomes free, and one goroutine
// encodes finished episodes at the same time. Results are collected in the goroutine that calls a method of
// [Scheduler].
//
// Read it in this order:
//
//	scheduler.go  the processes, and Run, which rolls out one iteration
//	plan.go       which episodes: tasks, groups, start states
//	execution.go  one call at work: starts lanes, collects episodes, ends
//	lane.go       a lane, and the rule by which a failed episode is rolled out again
//	episode.go    the episode loop, the same for every actor
//	actor.go      who acts: the policy, the env's expert, or random actions
//	record.go     recordings and demonstrations, which are recordings of the expert
//	evaluate.go   evaluations
//
// A result depends on seeds and ids. It does not depend on the number of lanes, on which lane rolled out an
// episode, on the order in which episodes finish, or on processes that die: every random number comes from a
// [Seed] of ids, a lost episode is rolled out again from its seed, and [Scheduler.Run] describes which groups
// are rolled out. Only [Timing] and [Episode.Retries] describe the call rather than the result.
//
// The package sees processes as a [Worker] only. It checks every reply of a plugin before it uses it.
package rollout
