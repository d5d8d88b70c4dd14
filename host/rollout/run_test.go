package rollout

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// comparable removes what depends on the machine.
func comparable(r *Result) Result {
	c := *r
	c.Timing = Timing{}
	c.Groups = append([]Group(nil), r.Groups...)
	for g := range c.Groups {
		c.Groups[g].Episodes = append([]Episode(nil), c.Groups[g].Episodes...)
		for i := range c.Groups[g].Episodes {
			c.Groups[g].Episodes[i].Retries = 0
		}
	}
	return c
}

func (x *setting) run(t testing.TB) Result {
	t.Helper()
	r, err := x.s.Run(t.Context(), x.plan)
	require.NoError(t, err)
	x.checkRecords(t, r)
	return comparable(r)
}

// checkRecords checks that the policy's records are those of the kept groups, each complete.
func (x *setting) checkRecords(t testing.TB, r *Result) {
	t.Helper()
	want := map[string][]int{}
	for _, g := range r.Groups {
		for _, e := range g.Episodes {
			if g.Kept {
				for s := 0; s < e.Steps; s += fakeChunk {
					want[e.ID] = append(want[e.ID], s)
				}
			}
		}
	}
	require.Equal(t, want, x.policy.recorded)
}

// leaks fails the test when goroutines are left at its end.
func leaks(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for range 200 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(),
			buf[:runtime.Stack(buf, true)])
	})
}

func TestRunReturnsEverythingInOrder(t *testing.T) {
	leaks(t)
	x := newSetting(t, 2)
	x.plan.KeepFrames = func(Episode) bool { return true }
	r := x.run(t)
	steps, kept := 0, 0
	for g, group := range r.Groups {
		require.Equal(t, g, group.ID)
		require.Len(t, group.Episodes, 4)
		successes := 0
		for m, e := range group.Episodes {
			require.Equal(t, EpisodeID(2, group.Task, g, m), e.ID)
			require.Equal(t, [3]int{2, g, m}, [3]int{e.Iteration, e.Group, e.Index})
			require.True(t, e.Terminated || e.Truncated)
			require.Len(t, e.Embedding, fakeDimension)
			require.Empty(t, e.EmbeddingError)
			require.Equal(t, 1+e.Steps/2, e.FrameCount)
			require.Equal(t, []int{e.FrameCount, 4, 4, 3}, e.Frames.Shape)
			require.Len(t, e.Frames.Data, e.FrameCount*48)
			require.Less(t, e.LogProb, 0.0)
			require.NotNil(t, e.Progress)
			steps += e.Steps
			if e.Success {
				successes++
			}
		}
		require.Equal(t, successes, group.Successes)
		if group.Kept {
			kept++
			require.Empty(t, group.Reason)
		} else {
			require.NotEmpty(t, group.Reason)
		}
	}
	require.Equal(t, steps, r.EnvSteps)
	require.Equal(t, 5, kept)
	require.Greater(t, len(r.Groups), 5, "the case must drop groups")
}

// siiRL 0.2.0 lets the rollouts of one prompt share a video. Here they differ.
func TestMembersOfAGroupDiffer(t *testing.T) {
	x := newSetting(t, 2)
	x.plan.GroupBy = ByStart
	for _, g := range x.run(t).Groups {
		for m, e := range g.Episodes {
			require.Equal(t, g.Episodes[0].StartState, e.StartState)
			for _, o := range g.Episodes[:m] {
				require.NotEqual(t, o.Seed, e.Seed)
				require.NotEqual(t, o.Embedding, e.Embedding)
			}
		}
	}
}

func TestResultDependsOnSeedsAndIDsOnly(t *testing.T) {
	leaks(t)
	keep := func(e Episode) bool { return e.Success || e.Index == 0 }
	reference := newSetting(t, 1)
	reference.plan.KeepFrames, reference.plan.FrameBytes = keep, 3000
	want := reference.run(t)
	for name, lanes := range map[string][]int{
		"1": {1}, "4": {4}, "4 in 4": {1, 1, 1, 1}, "64 in 5": {13, 13, 13, 13, 12},
	} {
		for seed := range uint64(4) {
			x := newSetting(t, lanes...)
			x.plan.KeepFrames, x.plan.FrameBytes = keep, 3000
			x.world.jitter = seed%2 == 1
			require.Equal(t, want, x.run(t), "%s lanes", name)
		}
	}
	x := newSetting(t, 3)
	x.plan.KeepFrames, x.plan.FrameBytes = keep, 3000
	x.plan.Seed++
	require.NotEqual(t, want, x.run(t), "another seed")
}

func TestDeathsChangeNothing(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)
	deaths := 0
	for seed := range uint64(24) {
		x := newSetting(t, [][]int{{1}, {4}, {2, 2}, {8, 8, 8}}[seed%4]...)
		x.world.jitter = seed%8 >= 4
		x.world.die = chance(seed, 15, 6)
		x.encoder.die = chance(seed+1000, 6, 3)
		faults := 0
		x.s.OnFault = func(f Fault) {
			require.Error(t, f.Err)
			require.NotEmpty(t, f.Place)
			faults++
		}
		require.Equal(t, want, x.run(t), "seed %d", seed)
		for _, p := range x.envs {
			deaths += p.reported
		}
		require.NotZero(t, faults)
	}
	require.Greater(t, deaths, 60, "processes must die")
}

func TestPolicyLost(t *testing.T) {
	leaks(t)
	want := newSetting(t, 1).run(t)
	for call := int64(1); call <= 40; call += 5 {
		x := newSetting(t, 4)
		x.world.jitter = true
		worker := x.policy.process()
		x.s.Policy = worker
		x.policy.die = func(n int64) bool { return n == call }
		_, err := x.s.Run(t.Context(), x.plan)
		require.ErrorIs(t, err, ErrPolicyLost)
		require.ErrorIs(t, err, errGone, "the cause is kept")
		require.Equal(t, 1, worker.reported)
		x.policy.recorded = map[string][]int{} // as Load does
		require.Equal(t, want, x.run(t), "call %d", call)
	}
}
