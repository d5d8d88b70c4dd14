package rollout

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

func TestBadEnvReplies(t *testing.T) {
	for name, alter := range map[string]func(r *env.Transition){
		"steps_done is 4 of a chunk of 3": func(r *env.Transition) { r.StepsDone = 4; r.EpisodeSteps = 4 },
		"steps_done is 0 of a chunk of 3": func(r *env.Transition) { r.StepsDone = 0; r.EpisodeSteps = 0 },
		"steps_done is -1 of a chunk":     func(r *env.Transition) { r.StepsDone = -1 },
		"episode_steps is 9, want 0+3":    func(r *env.Transition) { r.EpisodeSteps = 9 },
		"but the episode continues":       func(r *env.Transition) { r.StepsDone, r.EpisodeSteps = 2, 2 },
		"success without terminated": func(r *env.Transition) {
			r.Success, r.Terminated, r.Truncated = true, false, true
		},
		"progress is NaN, want 0 to 1":             func(r *env.Transition) { *r.Progress = math.NaN() },
		"progress is 1.5, want 0 to 1":             func(r *env.Transition) { *r.Progress = 1.5 },
		"the image of camera \"front\" is missing": func(r *env.Transition) { r.Observation.Images = nil },
		"image of camera front is uint8": func(r *env.Transition) {
			r.Observation.Images["front"] = plugins.Bytes(make([]byte, 16), 4, 4)
		},
		"image of camera \"front\" is empty": func(r *env.Transition) {
			r.Observation.Images["front"] = plugins.Bytes(nil, 0, 4, 3)
		},
		"has shape [4 4 3] but 40 bytes": func(r *env.Transition) {
			r.Observation.Images["front"] = plugins.Bytes(make([]byte, 40), 4, 4, 3)
		},
		"image of camera \"front\" is [5 4 3": func(r *env.Transition) {
			r.Observation.Images["front"] = plugins.Bytes(make([]byte, 60), 5, 4, 3)
		},
		"proprio is float32 [3]": func(r *env.Transition) {
			r.Observation.Proprio = plugins.Floats([]float32{1, 2, 3})
		},
		"proprio \"b\" is not finite": func(r *env.Transition) {
			r.Observation.Proprio = plugins.Floats([]float32{1, float32(math.Inf(-1))})
		},
		"recorded is uint8 [2 4 4 3], want": func(r *env.Transition) {
			r.Recorded = plugins.Bytes(make([]byte, 96), 2, 4, 4, 3)
		},
		"recorded is unknown []": func(r *env.Transition) { r.Recorded = plugins.Tensor{} },
		"the recording of camera \"front\" is [2 8": func(r *env.Transition) {
			r.Recorded = plugins.Bytes(make([]byte, 48), 1, 2, 8, 3)
		},
		"recorded frames are empty": func(r *env.Transition) { r.Recorded = plugins.Bytes(nil, 1, 0, 8, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			leaks(t)
			x := newSetting(t, 2)
			bad := x.plan.group(3)[1].episode
			first := true
			var mu sync.Mutex
			x.world.alter = func(e Episode, r *env.Transition) {
				mu.Lock()
				defer mu.Unlock()
				if e.Seed == bad.Seed && r.StepsDone == 3 && !r.Done() && e.Steps == 3 {
					alter(r)
					first = false
				}
			}
			_, err := x.s.Run(t.Context(), x.plan)
			require.False(t, first, "the case must be reached")
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, bad.ID)
			require.ErrorContains(t, err, "Step 0")
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
			require.NotEmpty(t, plugins.AsError(err).Hint)
			require.Equal(t, 1+maxFaults, x.envs[0].reported, "a process that gives bad replies is replaced each time")
		})
	}
}

func TestEnvExceedsMaxSteps(t *testing.T) {
	x := newSetting(t, 1)
	x.plan.MaxSteps = 2 * fakeChunk
	x.world.alter = func(_ Episode, r *env.Transition) { r.Truncated = false }
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "the episode continues at max_steps")
}

func TestEpisodeDoneAtReset(t *testing.T) {
	x := newSetting(t, 1)
	x.world.alter = func(e Episode, r *env.Transition) { r.Terminated = r.Terminated || r.StepsDone == 0 }
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "the episode is done before it began")
	require.ErrorContains(t, err, "Reset")
}

func TestBadPolicyReplies(t *testing.T) {
	good := func() []float32 { return []float32{0, 0.5, 1, -1, 0, 0} }
	with := func(i int, v float64) func(*policy.Result) {
		return func(r *policy.Result) {
			a := good()
			a[i] = float32(v)
			r.Actions = plugins.Floats(a, 3, 2)
		}
	}
	for name, alter := range map[string]func(*policy.Result){
		"actions is float32 [2 3], want float32 [3 2]": func(r *policy.Result) {
			r.Actions = plugins.Floats(good(), 2, 3)
		},
		"actions is float32 [1 2], want": func(r *policy.Result) {
			r.Actions = plugins.Floats(good()[:2], 1, 2)
		},
		"actions is uint8 [3 2], want": func(r *policy.Result) {
			r.Actions = plugins.Bytes(make([]byte, 6), 3, 2)
		},
		"actions[1] x is NaN, want -1 to 1":        with(2, math.NaN()),
		"actions[2] y is +Inf, want -1 to 1":       with(5, math.Inf(1)),
		"actions[0] y is 1.01, want -1 to 1":       with(1, 1.01),
		"log_probs has 2 entries for a chunk of 3": func(r *policy.Result) { r.LogProbs = r.LogProbs[:2] },
		"log_probs has 0 entries for a chunk of 3": func(r *policy.Result) { r.LogProbs = nil },
		"log_probs[1] is NaN": func(r *policy.Result) {
			r.LogProbs[1] = float32(math.NaN())
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaks(t)
			x := newSetting(t, 2)
			x.s.PolicyName = "policy wonky"
			x.policy.alter = func(_ policy.Item, r *policy.Result) { alter(r) }
			_, err := x.s.Run(t.Context(), x.plan)
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "policy wonky, episode 2/")
			kind := plugins.Corrupt
			if strings.Contains(name, "] ") ||
				strings.HasPrefix(
					name,
					"log_probs",
				) { // unusable numbers: each costs its episode, too many end the call
				kind = plugins.Diverged
				require.ErrorContains(t, err, " episodes ended like this")
			}
			require.Equal(t, kind, plugins.KindOf(err))
			require.NotErrorIs(t, err, ErrPolicyLost, "the same weights would give it again")
		})
	}
}

// An unusable number of the policy costs its episode: it is in no group, the policy forgets it, and all others
// are unchanged.
func TestInvalidEpisode(t *testing.T) {
	for _, late := range []bool{false, true} {
		plan := func(x *setting) {
			x.plan.KeepLow, x.plan.KeepHigh, x.plan.ExtraGroups = 0, 1, 0
			if late {
				x.plan.EqualLength = EqualLength{Mode: Cut}
			}
		}
		x := newSetting(t, 4)
		plan(x)
		want := x.run(t)
		bad := want.Groups[2].Episodes[1].ID
		groups, steps := want.Groups[2], want.Groups[2].Episodes[1].Steps
		for name, spoil := range map[string]func(*fakePolicy){
			"NaN action": func(p *fakePolicy) {
				p.alter = func(i policy.Item, r *policy.Result) {
					if i.Trajectory == bad && i.Step >= fakeChunk {
						r.Actions.Data = plugins.Floats([]float32{0, 0, 0, float32(math.NaN()), 0, 0}).Data
					}
				}
			},
			"infinite log-probability": func(p *fakePolicy) {
				p.alter = func(i policy.Item, r *policy.Result) {
					if i.Trajectory == bad && i.Step >= fakeChunk {
						r.LogProbs[2] = float32(math.Inf(-1))
					}
				}
			},
			"log-probabilities of another size": func(p *fakePolicy) {
				p.alter = func(i policy.Item, r *policy.Result) {
					if i.Trajectory == bad && i.Step >= fakeChunk {
						r.LogProbs = r.LogProbs[:2]
					}
				}
			},
			"an error of the whole batch": func(p *fakePolicy) {
				p.before = func(_ context.Context, a policy.Act) error {
					for _, i := range a.Items {
						if i.Trajectory == bad && i.Step >= fakeChunk {
							return plugins.Errorf(plugins.Diverged, "the network's output is not finite")
						}
					}
					return nil
				}
			},
		} {
			t.Run(fmt.Sprintf("%s, late %v", name, late), func(t *testing.T) {
				leaks(t)
				x := newSetting(t, 4)
				plan(x)
				spoil(x.policy)
				got := x.run(t)
				require.Len(t, got.Invalid, 1)
				require.Equal(t, bad, got.Invalid[0].ID)
				require.Equal(t, fakeChunk, got.Invalid[0].Steps)
				require.ErrorContains(t, got.Invalid[0].Invalid, "policy, episode "+bad+", Act at step 3: ")
				require.Empty(t, got.Invalid[0].Embedding)
				require.NotContains(t, x.policy.recorded, bad)
				require.Len(t, got.Groups[2].Episodes, 3)
				require.Equal(t, want.EnvSteps-steps+fakeChunk, got.EnvSteps)
				for g := range want.Groups {
					for _, e := range want.Groups[g].Episodes {
						if e.ID == bad || late && e.Task == groups.Task { // the shortest may have been this one
							continue
						}
						require.True(
							t,
							slices.ContainsFunc(
								got.Groups[g].Episodes,
								func(o Episode) bool { return reflect.DeepEqual(o, e) },
							),
							e.ID,
						)
					}
				}
			})
		}
	}
}

// A group of invalid episodes is dropped. In an evaluation an invalid trial is a failure.
func TestInvalidGroupAndTrial(t *testing.T) {
	leaks(t)
	nan := func(p *fakePolicy, ids ...string) {
		p.alter = func(i policy.Item, r *policy.Result) {
			if slices.Contains(ids, i.Trajectory) {
				r.LogProbs[0] = float32(math.NaN())
			}
		}
	}
	x := newSetting(t, 3)
	x.plan.GroupSize, x.plan.Groups, x.plan.KeepLow, x.plan.KeepHigh, x.plan.ExtraGroups = 1, 5, 0, 1, 1
	id := x.run(t).Groups[1].Episodes[0].ID
	x.policy.recorded = map[string][]int{}
	nan(x.policy, id)
	got := x.run(t)
	require.Len(t, got.Invalid, 1)
	require.Len(t, got.Groups, 6, "another one in its place")
	require.False(t, got.Groups[1].Kept)
	require.Equal(t, "all of its episodes are invalid", got.Groups[1].Reason)
	require.Empty(t, got.Groups[1].Episodes)

	x = newSetting(t, 3)
	e := Evaluation{Rules: x.plan.Rules, Name: "eval", Seed: 3}
	e.Encode, e.Record = false, false
	for i := range 7 {
		e.Trials = append(e.Trials, Trial{Task: fakeTask("a"), StartState: i})
	}
	nan(x.policy, e.ID(4))
	episodes, _, err := x.s.Evaluate(t.Context(), e)
	require.NoError(t, err)
	require.Len(t, episodes, 7)
	require.False(t, episodes[4].Success)
	require.ErrorContains(t, episodes[4].Invalid, "log_probs[0] is NaN")
	nan(x.policy, e.ID(4), e.ID(5))
	_, _, err = x.s.Evaluate(t.Context(), e)
	require.ErrorContains(t, err, "log_probs[0] is NaN; 2 of 7 episodes ended like this")
	require.Equal(t, plugins.Diverged, plugins.KindOf(err))
}

func TestActionsAreClippedByRoundingOnly(t *testing.T) {
	x := newSetting(t, 1)
	x.policy.alter = func(_ policy.Item, r *policy.Result) {
		r.Actions = plugins.Floats([]float32{1.000001, -1.000001, 0, 0, 0, 0}, 3, 2)
	}
	x.plan.KeepLow, x.plan.KeepHigh, x.plan.KeepTrajectory = 0, 1, true
	x.plan.OnFrames = func(e Episode) { require.Equal(t, []float32{1, -1}, e.Trajectory.Actions.Float32s()[:2]) }
	x.run(t)
}

func TestPolicyError(t *testing.T) {
	leaks(t)
	x := newSetting(t, 4)
	x.policy.before = func(context.Context, policy.Act) error {
		return plugins.Errorf(plugins.Exhausted, "out of GPU memory").WithHint("lower max_batch")
	}
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "policy, Act: out of GPU memory")
	require.Equal(t, "lower max_batch", plugins.AsError(err).Hint)
	require.NotErrorIs(t, err, ErrPolicyLost)
}

func TestPolicyOfAnotherIncarnation(t *testing.T) {
	x := newSetting(t, 1)
	x.s.PolicyIncarnation = 1
	x.run(t)
	worker := x.s.Policy.(*process[policy.Policy])
	worker.Failed(1, errGone)
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorIs(t, err, ErrPolicyLost)
}

func TestFaultsThatReplaceAProcess(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)
	for kind, replaced := range map[plugins.ErrorKind]int{
		plugins.Unavailable: 1, plugins.Deadline: 1, plugins.Corrupt: 1,
		plugins.Invalid: 0, plugins.Internal: 0, plugins.Exhausted: 0, plugins.Canceled: 0, plugins.NotFound: 0,
	} {
		x := newSetting(t, 2)
		var calls atomic.Int64
		x.world.before = func(context.Context, int, Episode) error {
			if calls.Add(1) == 17 {
				return plugins.Errorf(kind, "once")
			}
			return nil
		}
		var faults []Fault
		x.s.OnFault = func(f Fault) { faults = append(faults, f) }
		x.s.EnvName = "env fake"
		r, err := x.s.Run(t.Context(), x.plan)
		require.NoError(t, err)
		require.Equal(t, want, comparable(r), "%v", kind)
		require.Equal(t, replaced, x.envs[0].reported, "%v", kind)
		require.Len(t, faults, 1)
		require.Contains(t, faults[0].Place, "env fake, process 0, lane ")
		require.Equal(t, 1, r.Timing.Faults)
		retries := 0
		for _, g := range r.Groups {
			for _, e := range g.Episodes {
				if retries += e.Retries; e.Retries > 0 {
					require.Equal(t, faults[0].Episode, e.ID)
				}
			}
		}
		require.Equal(t, 1, retries)
	}
}

// An episode that fails by itself is repeated, once in a new process, and then the error names it.
func TestEpisodeThatAlwaysFails(t *testing.T) {
	leaks(t)
	x := newSetting(t, 2)
	bad := x.plan.group(1)[2].episode
	var tries atomic.Int64
	x.world.before = func(_ context.Context, _ int, e Episode) error {
		if e.Seed == bad.Seed {
			tries.Add(1)
			return plugins.Errorf(plugins.Internal, "mesh is inside out").WithDetail("Traceback ...")
		}
		return nil
	}
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "failed 4 times, the last time with: mesh is inside out")
	require.ErrorContains(t, err, bad.ID)
	require.Equal(t, "Traceback ...", plugins.AsError(err).Detail)
	require.EqualValues(t, 4, tries.Load())
	require.Equal(t, 1, x.envs[0].reported)
}

// A process that is alive but fails every call is replaced, and no episode is lost.
func TestBrokenProcess(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)
	x := newSetting(t, 1)
	var broken atomic.Bool
	var calls atomic.Int64
	x.world.before = func(context.Context, int, Episode) error {
		if calls.Add(1) == 17 {
			broken.Store(true)
		}
		if broken.Load() && x.envs[0].reported == 0 {
			return plugins.Errorf(plugins.Internal, "a worker is gone")
		}
		return nil
	}
	r, err := x.s.Run(t.Context(), x.plan)
	require.NoError(t, err)
	require.Equal(t, want, comparable(r))
	require.Equal(t, 1, x.envs[0].reported)
	require.Equal(t, 2, r.Timing.Faults)
}

// The same where another lane always takes the episode that failed: no episode meets the broken process twice,
// but the process fails two in a row.
func TestBrokenProcessBesideAnIdleLane(t *testing.T) {
	var d lastFailure
	require.False(t, d.repeats(1, "a"))
	require.True(t, d.repeats(1, "b"))
	d.clear(1)
	require.False(t, d.repeats(1, "c"), "an attempt succeeded in between")
	require.False(t, d.repeats(1, "c"), "the same episode again")
	require.False(t, d.repeats(2, "d"), "a new process")
	d.clear(1)
	require.True(t, d.repeats(2, "e"), "a success in the old process does not count")

	leaks(t)
	want := newSetting(t, 1).run(t)
	x := newSetting(t, 1, 1)
	var mu sync.Mutex
	change := sync.NewCond(&mu)
	var failed uint64 // seed of the last episode that process 0 failed
	taken := map[uint64]bool{}
	broken := &world{t: t, before: func(_ context.Context, _ int, e Episode) error {
		mu.Lock()
		defer mu.Unlock()
		if x.envs[0].reported > 0 {
			return nil
		}
		failed = e.Seed
		return plugins.Errorf(plugins.Internal, "a worker is gone")
	}}
	x.world.before = func(_ context.Context, _ int, e Episode) error {
		mu.Lock()
		defer mu.Unlock()
		taken[e.Seed] = true
		change.Broadcast()
		return nil
	}
	x.envs[0] = broken.process(1)
	x.s.Envs[0].Worker = afterwards{x.envs[0], func() {
		mu.Lock()
		defer mu.Unlock()
		for failed != 0 && !taken[failed] {
			change.Wait()
		}
	}}
	r, err := x.s.Run(t.Context(), x.plan)
	require.NoError(t, err)
	require.Equal(t, want, comparable(r))
	require.Equal(t, 1, x.envs[0].reported)
	require.Equal(t, 2, r.Timing.Faults)
}

// afterwards is a worker whose process is ready only when wait returns.
type afterwards struct {
	Worker[env.Env]
	wait func()
}

func (a afterwards) Client(ctx context.Context) (env.Env, uint64, error) {
	a.wait()
	return a.Worker.Client(ctx)
}

// An episode that kills its process costs the other lanes their attempts. In the end the error names the lost
// process.
func TestEpisodeThatAlwaysKills(t *testing.T) {
	leaks(t)
	x := newSetting(t, 2, 2)
	bad := x.plan.group(0)[0].episode
	x.world.before = func(_ context.Context, _ int, e Episode) error {
		if e.Seed == bad.Seed {
			return errGone
		}
		return nil
	}
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "lost with its process 11 times, the last time with: connection reset")
	require.ErrorContains(t, err, bad.ID)
}

// Lanes whose process does not come back are given up, and the other lanes take over.
func TestProcessThatDoesNotComeBack(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)
	x := newSetting(t, 2, 3)
	x.envs[0].budget = 0
	x.s.Envs[0].Worker = dying{x.s.Envs[0].Worker}
	lost, bothLost := 0, make(chan struct{})
	x.s.OnFault = func(f Fault) {
		if f.Episode == "" {
			if lost++; lost == 2 {
				close(bothLost)
			}
		}
	}
	x.world.before = func(context.Context, int, Episode) error { <-bothLost; return nil }
	r, err := x.s.Run(t.Context(), x.plan)
	require.NoError(t, err)
	require.Equal(t, want, comparable(r))
	require.Equal(t, 5, r.Timing.Lanes)
	require.Equal(t, 2, r.Timing.LanesLost)

	x = newSetting(t, 2)
	x.envs[0].budget = 0
	x.world.die = func(n int64) bool { return n == 10 }
	_, err = x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "the restart budget of 0 is spent")
}

// dying is a worker whose env dies in its first call.
type dying struct{ Worker[env.Env] }

type goneEnv struct{ env.Env }

func (goneEnv) Reset(context.Context, env.Reset) (env.Transition, error) {
	return env.Transition{}, errGone
}

func (d dying) Client(ctx context.Context) (env.Env, uint64, error) {
	e, n, err := d.Worker.Client(ctx)
	return goneEnv{e}, n, err
}

func TestCancelReturnsAndLeavesNothing(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, set := range map[string]func(x *setting, reached func()){
		"env hangs": func(x *setting, reached func()) {
			x.world.before = func(ctx context.Context, _ int, _ Episode) error {
				if x.world.calls.Add(1) == 20 {
					reached()
				} else if x.world.calls.Load() < 20 {
					return nil
				}
				return hang(ctx)
			}
		},
		"policy hangs": func(x *setting, reached func()) {
			x.policy.before = func(ctx context.Context, _ policy.Act) error {
				if x.policy.calls.Load() < 3 {
					return nil
				}
				reached()
				return hang(ctx)
			}
		},
		"encoder hangs": func(x *setting, reached func()) {
			x.encoder.before = func(ctx context.Context, _ []plugins.Tensor) error {
				reached()
				return hang(ctx)
			}
		},
		"restart hangs": func(x *setting, reached func()) {
			x.s.Envs[0].Worker = starting{x.s.Envs[0].Worker, reached}
		},
	} {
		t.Run(name, func(t *testing.T) {
			leaks(t)
			x := newSetting(t, 3, 2)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			set(x, sync.OnceFunc(cancel))
			_, err := x.s.Run(ctx, x.plan)
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, plugins.Canceled, plugins.KindOf(err))
			for _, p := range x.envs {
				require.Zero(t, p.reported, "cancellation is not a failure")
			}
		})
	}
}

// starting is a worker whose process never starts.
type starting struct {
	Worker[env.Env]
	reached func()
}

func (s starting) Client(ctx context.Context) (env.Env, uint64, error) {
	s.reached()
	<-ctx.Done()
	return nil, 0, ctx.Err()
}

// The end of a call does not wait for a process that is still starting.
func TestEndDoesNotWaitForAStartingProcess(t *testing.T) {
	leaks(t)
	x := newSetting(t, 1, 1)
	x.s.Envs[1].Worker = starting{x.s.Envs[1].Worker, func() {}}
	x.run(t)
}

func TestPolicyLostLetsEnvCallsEnd(t *testing.T) {
	leaks(t)
	x := newSetting(t, 8)
	lost := make(chan struct{})
	var once sync.Once
	x.world.before = func(ctx context.Context, lane int, e Episode) error {
		if lane == 0 {
			<-lost // in a call while the policy is lost
			if ctx.Err() != nil {
				t.Error("the call was cancelled")
			}
		}
		return nil
	}
	x.policy.die = func(n int64) bool {
		if n == 5 {
			once.Do(func() { close(lost) })
		}
		return n == 5
	}
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorIs(t, err, ErrPolicyLost)
}

func TestUnusableEmbeddings(t *testing.T) {
	for reason, alter := range map[string]func([]float32) []float32{
		"is not a number":         func(v []float32) []float32 { v[3] = float32(math.NaN()); return v },
		"is infinite":             func(v []float32) []float32 { v[0] = float32(math.Inf(-1)); return v },
		"is all zero":             func(v []float32) []float32 { return make([]float32, len(v)) },
		"has the wrong size":      func(v []float32) []float32 { return v[:4] },
		"is subnormal throughout": func(v []float32) []float32 { clear(v); v[1], v[2] = 1e-45, -1e-38; return v },
	} {
		x := newSetting(t, 3)
		n := 0
		x.encoder.alter = func(c plugins.Tensor, v []float32) []float32 {
			if c.Data[0]%3 == 0 {
				return alter(v)
			}
			return v
		}
		for _, g := range x.run(t).Groups {
			for _, e := range g.Episodes {
				if e.EmbeddingError != "" {
					require.Contains(t, e.EmbeddingError, reason)
					require.Nil(t, e.Embedding)
					n++
				} else {
					require.Len(t, e.Embedding, fakeDimension)
				}
			}
		}
		require.NotZero(t, n)
	}
}

func TestEncoderFaults(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)

	x := newSetting(t, 3) // a row too many, once
	var calls atomic.Int64
	inner := x.s.Encoder
	x.s.Encoder = extraRowEncoder{inner, &calls}
	require.Equal(t, want, x.run(t))

	x = newSetting(t, 3) // one clip that kills
	bad := x.plan.group(2)[1].episode.ID
	y := newSetting(t, 1)
	y.plan.KeepFrames = func(e Episode) bool { return e.ID == bad }
	badClip := string(y.run(t).Groups[2].Episodes[1].Frames.Data)
	x.encoder.before = func(_ context.Context, clips []plugins.Tensor) error {
		for _, c := range clips {
			if string(c.Data) == badClip {
				return plugins.Errorf(plugins.Unavailable, "segmentation fault")
			}
		}
		return nil
	}
	_, err := x.s.Run(t.Context(), x.plan)
	require.ErrorContains(t, err, "encoder, episode "+bad+": failed 4 times, the last time with: segmentation fault")
	// The clip fails in a batch with others, unless it is alone in it, and then by itself.
	require.Contains(t, []int{4, 5}, len(x.s.Encoder.(*process[encoder.Encoder]).causes))
}
