package rollout

import (
	"context"
	"sync"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Worker is a plugin's process as the scheduler sees it: something that is there, or is brought back. host/supervise implements it.
type Worker[T any] interface {
	// Client returns the live, configured plugin and which incarnation of the process it is; it starts or restarts the process where needed. ctx bounds the
	// wait, not the life of the process. An error other than ctx's own means that the process will not come back (its restart budget is spent).
	Client(ctx context.Context) (client T, incarnation uint64, err error)
	// Failed says that a call to that incarnation failed in a way that the process must be replaced. Saying it twice changes nothing.
	Failed(incarnation uint64, cause error)
}

// EnvProc is one process of an env.
type EnvProc struct {
	Worker Worker[env.Env]
	// Lanes that the process was configured with, numbered 0 to Lanes-1.
	Lanes int
}

// Scheduler holds the processes that roll episodes, and what they said of themselves. Its methods do not change it, but only one of them may run at a time
// on the same envs.
type Scheduler struct {
	Envs    []*EnvProc
	Policy  Worker[policy.Policy]
	Encoder Worker[encoder.Encoder] // nil: nothing can be encoded

	EnvSpec     plugins.EnvSpec
	PolicySpec  policy.Spec
	EncoderSpec encoder.Spec

	// EnvName, PolicyName and EncoderName are for error messages, e.g. "env libero"; empty: just "env".
	EnvName, PolicyName, EncoderName string

	// PolicyIncarnation is the incarnation that holds the weights to act with, as Policy.Client gave it when they were loaded. When Client returns another
	// one, the process died in between and knows nothing: the methods return [ErrPolicyLost]. 0: any will do.
	PolicyIncarnation uint64
	// PolicyCalls is how many Act calls may run at the same time; 0: 1.
	PolicyCalls int
	// Retries bounds how often an episode is rolled again after a fault of its own (an error, a deadline or a bad reply to one of its calls), and how often a
	// clip is given to the encoder again; 0: 3.
	Retries int
	// Losses bounds how often an episode is rolled again because its process was gone, which may be the fault of another lane's episode; 0: 10.
	Losses int
	// ClipBytes bounds the frames that wait to be encoded: lanes begin no new episode while there are more. 0: 2 GiB. Not used with [Cut] at the shortest
	// clip, which cannot encode before everything is rolled.
	ClipBytes int

	// Progress, when set, is called after every finished episode, never twice at a time.
	Progress func(Progress)
	// OnFault, when set, is told of every fault that was survived, never twice at a time.
	OnFault func(Fault)
}

// Progress is for a status line.
type Progress struct {
	// Episodes that are rolled, out of Total that are planned by now: Total grows as groups are replaced.
	Episodes, Total int
	// EnvSteps and Successes of those episodes.
	EnvSteps, Successes int
}

// Fault is a failure that cost an attempt, not the run.
type Fault struct {
	// Episode is the id of the episode that is rolled or encoded again; empty: a lane was given up.
	Episode string
	// Place is e.g. "env libero, process 2, lane 0".
	Place string
	Err   error
}

const (
	defaultRetries   = 3
	defaultLosses    = 10
	defaultClipBytes = 2 << 30
	// defaultEncodeBatch is used for encoders that take any number of clips: enough to fill a device, little enough to overlap.
	defaultEncodeBatch = 16
)

func (s *Scheduler) withDefaults() *Scheduler {
	c := *s
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.PolicyCalls, 1)
	set(&c.Retries, defaultRetries)
	set(&c.Losses, defaultLosses)
	set(&c.ClipBytes, defaultClipBytes)
	set(&c.EncoderSpec.Batch, defaultEncodeBatch)
	name := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	name(&c.EnvName, "env")
	name(&c.PolicyName, "policy")
	name(&c.EncoderName, "encoder")
	if f := s.OnFault; f != nil {
		var mu sync.Mutex
		c.OnFault = func(fault Fault) { mu.Lock(); defer mu.Unlock(); f(fault) }
	} else {
		c.OnFault = func(Fault) {}
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return &c
}

func (s *Scheduler) lanes() int {
	n := 0
	for _, p := range s.Envs {
		n += p.Lanes
	}
	return n
}

// Replaces says whether a failed call means that the process must be replaced.
func Replaces(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Unavailable, plugins.Deadline, plugins.Corrupt:
		return true
	}
	return false
}

// suspicious says whether an error, when an episode meets it for the second time, or a second episode in the same process, is rather the process's than the
// episode's: a worker of the plugin that died, memory that it does not get back. A fresh process gets the next try.
func suspicious(err error) bool {
	switch plugins.KindOf(err) {
	case plugins.Internal, plugins.Exhausted, plugins.Unspecified:
		return true
	}
	return false
}

// doubt is the last attempt in a process, if it ended with a suspicious error. Without it a process that is broken could stay so for long: where another lane
// is idle, that one takes the episode that failed here, and this one spoils the next.
type doubt struct {
	mu          sync.Mutex
	incarnation uint64
	episode     string // empty: there is none
}

// another says whether the last attempt in this incarnation, of another episode, failed too, and remembers this one.
func (d *doubt) another(incarnation uint64, episode string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	is := d.episode != "" && d.episode != episode && d.incarnation == incarnation
	d.incarnation, d.episode = incarnation, episode
	return is
}

// cleared says that an attempt in this incarnation went well.
func (d *doubt) cleared(incarnation uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.incarnation == incarnation {
		d.episode = ""
	}
}
