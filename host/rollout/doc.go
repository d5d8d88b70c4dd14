// Package rollout rolls the episodes of one iteration: tasks -> groups -> episodes on lanes.
//
// A lane is a goroutine of its own: it takes the next episode in the order of ids, resets its env, asks the policy for a chunk of actions, steps, and so
// on until the episode is done; no lane ever waits for another. One batcher serves whoever waits for actions as soon as the policy is free, and one
// goroutine encodes finished episodes meanwhile. Whoever calls [Scheduler.Run] or [Scheduler.Evaluate] is the only one to touch what is collected.
//
// What comes out depends on seeds and ids and never on the number of lanes, on which lane rolled what, on the order of arrival, or on processes that died
// on the way: every random number is a [Seed] of ids, a lost episode is rolled again from its seed, and which groups are rolled at all is the fixed point
// that [Scheduler.Run] describes. [Timing] and [Episode.Retries] are the exceptions: they tell what happened this time.
//
// The package holds processes only through [Worker], and every reply of a plugin is checked before it is used.
package rollout
