package rollout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/policy"
)

type extraRowEncoder struct {
	Worker[encoder.Encoder]
	calls *atomic.Int64
}

type extraRow struct {
	encoder.Encoder
	calls *atomic.Int64
}

func (l extraRowEncoder) Client(ctx context.Context) (encoder.Encoder, uint64, error) {
	e, n, err := l.Worker.Client(ctx)
	return extraRow{e, l.calls}, n, err
}

func (l extraRow) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	rows, err := l.Encoder.Encode(ctx, clips)
	if l.calls.Add(1) == 1 {
		rows = append(rows, rows[0])
	}
	return rows, err
}

// While an Act runs, requests gather, and the next Acts take as many of them as fit.
func TestWaitingRequestsShareACall(t *testing.T) {
	leaks(t)
	x := newSetting(t, 32)
	x.plan.Record = false
	release := make(chan struct{})
	x.policy.before = func(context.Context, policy.Act) error { <-release; return nil }
	r, err := x.s.withDefaults().start(t.Context(), x.plan.Rules, true)
	require.NoError(t, err)
	var lanes sync.WaitGroup
	request := func(i int) {
		lanes.Go(func() {
			item := policy.Item{Trajectory: fmt.Sprint(i), Seed: uint64(i)}
			c, ok := r.policy.act(t.Context(), item)
			if !ok || c.n != fakeChunk {
				t.Errorf("request %d was not answered", i)
			}
		})
	}
	request(0)
	for x.policy.calls.Load() == 0 {
		runtime.Gosched()
	}
	for i := range 20 {
		request(1 + i)
	}
	for len(r.policy.requests) < 20 {
		runtime.Gosched()
	}
	close(release)
	lanes.Wait()
	timing, err := r.end(nil)
	require.NoError(t, err)
	require.Equal(t, []int{1, 16, 4}, x.policy.batches)
	require.EqualValues(t, 1, x.policy.maxRunning.Load(), "one Act at a time")
	require.Equal(t, 3, timing.ActCalls)
	require.Equal(t, 21, timing.ActItems)
}

// One lane waits until all other episodes are finished. The test ends only if no lane, policy or encoder waits
// for it.
func TestNoLaneWaitsForTheSlowest(t *testing.T) {
	x := newSetting(t, 1, 3)
	x.plan.Groups, x.plan.ExtraGroups = 6, 0
	x.plan.KeepLow, x.plan.KeepHigh = 0, 1
	episodes := x.plan.Groups * x.plan.GroupSize
	slow := x.plan.group(0)[0].episode // the first id begins first
	release := make(chan struct{})
	x.world.before = func(_ context.Context, _ int, e Episode) error {
		if e.Seed == slow.Seed {
			<-release
		}
		return nil
	}
	var order []int
	x.s.Progress = func(p Progress) {
		order = append(order, p.Episodes)
		if p.Episodes == episodes-1 {
			close(release)
		}
	}
	r := x.run(t)
	require.Len(t, order, episodes)
	require.Equal(t, slow.ID, r.Groups[0].Episodes[0].ID)
}

// The lanes wait until something is encoded, then the encoder waits until every episode is rolled out.
func TestEncodingOverlaps(t *testing.T) {
	x := newSetting(t, 2)
	x.plan.Groups, x.plan.ExtraGroups, x.plan.KeepLow, x.plan.KeepHigh = 4, 0, 0, 1
	encoded := make(chan struct{})
	var once sync.Once
	x.encoder.before = func(context.Context, []plugins.Tensor) error { once.Do(func() { close(encoded) }); return nil }
	last := x.plan.group(3)[3].episode
	x.world.before = func(_ context.Context, _ int, e Episode) error {
		if e.Seed == last.Seed {
			<-encoded // the last episode ends only after the first was encoded
		}
		return nil
	}
	x.run(t)

	x = newSetting(t, 2)
	x.plan.Groups, x.plan.ExtraGroups, x.plan.KeepLow, x.plan.KeepHigh = 4, 0, 0, 1
	rolled := make(chan struct{})
	x.s.Progress = func(p Progress) {
		if p.Episodes == 16 {
			close(rolled)
		}
	}
	x.encoder.before = func(context.Context, []plugins.Tensor) error { <-rolled; return nil }
	x.run(t)
}

// When too many clips wait, lanes begin no episode until the encoder has caught up.
func TestClipsAreBounded(t *testing.T) {
	want := newSetting(t, 1).run(t)
	x := newSetting(t, 2)
	x.s.maxWaiting = 1 // exceeded by any clip
	var rolled, encoded atomic.Int64
	x.s.Progress = func(Progress) { rolled.Add(1) }
	x.encoder.before = func(_ context.Context, clips []plugins.Tensor) error {
		encoded.Add(int64(len(clips)))
		for range 50 {
			runtime.Gosched()
		}
		if n := rolled.Load() - encoded.Load(); n > 4 {
			t.Errorf("%d clips wait", n)
		}
		return nil
	}
	require.Equal(t, want, x.run(t))
}

// reference is the definition of dynamic sampling: the smallest prefix with enough kept groups, or all.
func reference(kept []bool, groups int) int {
	n, have := 0, 0
	for n < len(kept) && have < groups {
		if kept[n] {
			have++
		}
		n++
	}
	return n
}

func TestSamplerReachesTheFixedPoint(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		groups, extra, size := 1+r.IntN(6), r.IntN(8), 1+r.IntN(3)
		kept := make([]bool, groups+extra)
		p := r.Float64()
		for g := range kept {
			kept[g] = r.Float64() < p
		}
		s := sampler{
			plan: Plan{
				Groups:      groups,
				GroupSize:   size,
				ExtraGroups: extra,
				KeepLow:     1,
				KeepHigh:    1,
				Tasks:       []PlanTask{{Task: fakeTask("a")}},
			},
		}
		out := s.begin()
		require.Len(t, out, groups*size)
		for len(out) > 0 {
			i := r.IntN(len(out)) // any order of arrival
			e := &out[i].episode
			out = append(out[:i], out[i+1:]...)
			e.Success = kept[e.Group]
			if g := s.rolled(e); g != nil {
				require.Equal(t, kept[g.ID], g.Kept)
				out = append(out, s.begin()...)
			}
		}
		require.Len(t, s.groups, reference(kept, groups), "groups %d, kept %v", groups, kept)
		for g, group := range s.groups {
			require.Equal(t, kept[g], group.Kept)
		}
	}
}

// The groups of a run are the right prefix of a run of the whole budget.
func TestRunReachesTheFixedPoint(t *testing.T) {
	short := 0
	for seed := range uint64(25) {
		x := newSetting(t, 1+int(seed%9))
		x.world.jitter = seed%5 == 0
		x.plan.Seed, x.plan.Iteration, x.plan.Groups, x.plan.ExtraGroups = seed, 0, 3, int(seed%6)
		x.plan.KeepLow, x.plan.KeepHigh = 0.4, 0.8
		got := x.run(t)

		y := newSetting(t, 8)
		y.plan = x.plan
		y.plan.Groups, y.plan.ExtraGroups = 3+int(seed%6), 0
		whole := y.run(t).Groups
		kept := make([]bool, len(whole))
		for g := range kept {
			kept[g] = whole[g].Kept
		}
		n := reference(kept, 3)
		require.Equal(t, whole[:n], got.Groups)
		if n < len(whole) {
			short++
		}
	}
	require.Greater(t, short, 3, "some runs must end before the budget")
}

func TestTasksGetGroupsEvenly(t *testing.T) {
	p := Plan{Groups: 8, Tasks: []PlanTask{}}
	for i := range 10 {
		p.Tasks = append(p.Tasks, PlanTask{Task: fakeTask(fmt.Sprint(i))})
	}
	count := map[string]int{}
	for p.Iteration = range 5 { // 40 groups, 10 tasks
		for g := range p.Groups {
			count[p.task(g).ID]++
		}
	}
	for _, task := range p.Tasks {
		require.Equal(t, 4, count[task.ID])
	}

	p.Order, p.Seed, p.Iteration = Drawn, 3, 0
	for i := range p.Tasks {
		p.Tasks[i].Weight = float64(i)
	}
	clear(count)
	const draws = 45000
	for g := range draws {
		count[p.task(g).ID]++
	}
	for i, task := range p.Tasks { // weight i of 45
		require.InDelta(t, float64(i)/45*draws, count[task.ID], 0.01*draws)
	}
	require.Zero(t, count["0"])
}

func TestStartStatesAreDrawnFromTheSet(t *testing.T) {
	p := Plan{Seed: 5, Groups: 1, GroupSize: 40, Tasks: []PlanTask{{Task: fakeTask("a"), States: []int{1, 4, 6}}}}
	seen := map[int]int{}
	for _, j := range p.group(0) {
		seen[j.episode.StartState]++
	}
	require.Len(t, seen, 3)
	for _, s := range []int{1, 4, 6} {
		require.Greater(t, seen[s], 3)
	}
	p.Tasks[0].States = nil
	clear(seen)
	for _, j := range p.group(0) {
		seen[j.episode.StartState]++
	}
	require.Len(t, seen, 7, "all of the task's")
}

// A new job wakes each lane, because the first to wake may have a process that is still starting.
func TestQueueWakesAllLanes(t *testing.T) {
	q := newQueue(0)
	var waiting sync.WaitGroup
	for range 5 {
		waiting.Go(func() {
			if !q.wait() {
				t.Error("closed")
			}
		})
	}
	for range 100 {
		runtime.Gosched() // so that most of them sleep
	}
	q.put(&job{episode: Episode{Group: 1}}, &job{episode: Episode{Index: 1}}, &job{})
	waiting.Wait()
	for _, want := range []Episode{{}, {Index: 1}, {Group: 1}} {
		require.Equal(t, want, q.take().episode, "in the order of ids")
	}
	require.Nil(t, q.take())
	q.close()
	require.False(t, q.wait())
}
