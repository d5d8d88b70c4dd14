package tiny

import (
	"flag"
	"fmt"
	"hash/fnv"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/envs/tabletop"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// Flags of TestLearn, which measures the learning curve of the whole recipe in one process, from one expert
// demonstration to RL with a binary reward:
//
//	go test ./policies/tiny -run TestLearn -v -learn 3 [-set lr=1e-3,head=tokens] [-epochs 4] ...
var (
	learnSeeds = flag.Int("learn", 0, "number of seeds of TestLearn; 0 skips it")
	learnSet   = flag.String("set", "", "policy settings, name=value,...")
	learnEnv   = flag.String("envset", "", "env settings, name=value,...")
	learnTask  = flag.String("task", "tabletop/two_blocks", "task")
	learnIter  = flag.Int("iterations", 10, "iterations")
	learnGroup = flag.Int("groups", 8, "groups")
	learnSize  = flag.Int("size", 8, "rollouts in a group")
	learnEpoch = flag.Int("epochs", 2, "epochs")
	learnBatch = flag.Int("minibatch", 0, "mini-batch")
	learnBeta  = flag.Float64("beta", 0.01, "KL weight")
	learnTemp  = flag.Float64("temperature", 1, "temperature")
	learnDemo  = flag.Int("demos", 1, "demonstrations")
	learnHigh  = flag.Float64("cliphigh", 0.28, "clip_high")
	learnLow   = flag.Float64("cliplow", 0.2, "clip_low")
	learnDual  = flag.Float64("clipdual", 3, "clip_dual")
	learnStart = flag.Bool("bystart", false, "the rollouts of a group share a start state")
	learnEvery = flag.Bool("curve", true, "print every iteration")
)

// cpuTime is half of the process's CPU time: the time that its work would take on two idle cores.
type cpuTime time.Duration

func startCPUTime() cpuTime {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return cpuTime(u.Utime.Nano() + u.Stime.Nano())
}

func (s cpuTime) since() time.Duration { return time.Duration(startCPUTime()-s) / 2 }

// deriveSeed returns a seed for the given purpose.
func deriveSeed(seed uint64, parts ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, seed, parts)
	return rand.New(rand.NewPCG(h.Sum64(), 1)).Uint64()
}

// parseSettings parses "name=value,...".
func parseSettings(t testing.TB, list string, declared []plugins.Setting) plugins.Settings {
	m := map[string]any{}
	separator := func(r rune) bool { return r == ',' || r == ' ' }
	for _, kv := range strings.FieldsFunc(list, separator) {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
		if b, err := strconv.ParseBool(v); err == nil && (v == "true" || v == "false") {
			m[k] = b
		}
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			m[k] = f
		}
		if i, err := strconv.ParseInt(v, 10, 64); err == nil {
			m[k] = i
		}
		if strings.Contains(v, ";") { // list of convolutions: 16/4/4;16/3/1
			m[k] = strings.Split(strings.ReplaceAll(v, "/", ","), ";")
		}
	}
	s, err := plugins.Resolve(declared, m)
	require.NoError(t, err)
	return s
}

// testEnv is a tabletop env with one lane per episode.
type testEnv struct {
	env.Env
	spec  plugins.EnvSpec
	task  env.Task
	steps int
}

func newTestEnv(t testing.TB, lanes int, task string, settings plugins.Settings) *testEnv {
	w := &testEnv{Env: tabletop.New()}
	require.NoError(t, w.Configure(ctx, plugins.Config{Settings: settings, Lanes: lanes}))
	var err error
	w.spec, err = w.Describe(ctx)
	require.NoError(t, err)
	for k, err := range w.Tasks(ctx) {
		require.NoError(t, err)
		if k.ID == task {
			w.task = k
		}
	}
	require.Equal(t, task, w.task.ID)
	return w
}

func (w *testEnv) demonstration(t testing.TB, state int, seed uint64) policy.Demonstration {
	render := env.Render{Observe: []string{w.spec.RecordCamera}}
	d := policy.Demonstration{ID: fmt.Sprint("demo/", state), Instruction: w.task.Instruction}
	tr, err := w.Reset(ctx, env.Reset{Task: w.task.ID, StartState: state, Seed: seed, Render: render})
	require.NoError(t, err)
	var images, proprio, actions []byte
	var shape []int
	n := 0
	for !tr.Done() {
		im := tr.Observation.Images[w.spec.RecordCamera]
		shape = im.Shape
		images, proprio = append(images, im.Data...), append(proprio, tr.Observation.Proprio.Data...)
		tr, err = env.StepExpert(ctx, w, env.ExpertStep{Steps: 1, Render: render})
		require.NoError(t, err)
		actions = append(actions, tr.Actions.Data...)
		n++
	}
	d.Success = tr.Success
	d.Images = map[string]plugins.Tensor{w.spec.RecordCamera: plugins.Bytes(images, n, shape[0], shape[1], 3)}
	d.Proprio = plugins.Tensor{DType: plugins.Float32, Shape: []int{n, len(w.spec.Proprio)}, Data: proprio}
	d.Actions = plugins.Tensor{DType: plugins.Float32, Shape: []int{n, w.spec.Action.Dim()}, Data: actions}
	return d
}

func sequence(demos ...policy.Demonstration) iter.Seq2[policy.Demonstration, error] {
	return func(yield func(policy.Demonstration, error) bool) {
		for _, d := range demos {
			if !yield(d, nil) {
				return
			}
		}
	}
}

// episode is the outcome of one episode.
type episode struct {
	id       string
	success  bool
	steps    int
	progress float64
}

// rollout runs one episode on every lane, in lockstep.
func (w *testEnv) rollout(
	t testing.TB,
	p *Policy,
	a policy.Act,
	starts []int,
	name func(i int) string,
	seed uint64,
) []episode {
	render := env.Render{}
	spec, err := p.Describe(ctx)
	require.NoError(t, err)
	if len(spec.Cameras) > 0 {
		render.Observe = []string{w.spec.RecordCamera}
	}
	last := make([]env.Transition, len(starts))
	workers(len(starts), func(_, i int) {
		var err error
		last[i], err = w.Reset(
			ctx,
			env.Reset{
				Lane:       i,
				Task:       w.task.ID,
				StartState: starts[i],
				Seed:       deriveSeed(seed, name(i)),
				Render:     render,
			},
		)
		if err != nil {
			panic(err)
		}
	})
	out := make([]episode, len(starts))
	for {
		var live []int
		a.Items = a.Items[:0]
		for i := range starts {
			if !last[i].Done() {
				live = append(live, i)
				a.Items = append(
					a.Items,
					policy.Item{
						Trajectory:  name(i),
						Step:        last[i].EpisodeSteps,
						Observation: last[i].Observation,
						Seed:        deriveSeed(seed, name(i), last[i].EpisodeSteps),
					},
				)
			}
		}
		if len(live) == 0 {
			return out
		}
		results, err := p.Act(ctx, a)
		require.NoError(t, err)
		workers(len(live), func(_, k int) {
			i := live[k]
			var err error
			last[i], err = w.Step(ctx, env.Step{Lane: i, Actions: results[k].Actions, Render: render})
			if err != nil {
				panic(err)
			}
			out[i] = episode{name(i), last[i].Success, last[i].EpisodeSteps, *last[i].Progress}
		})
		for range live {
			w.steps++
		}
	}
}

// successRate returns the share of successful episodes.
func successRate(episodes []episode) float64 {
	var n float64
	for _, e := range episodes {
		if e.success {
			n++
		}
	}
	return n / float64(len(episodes))
}

// multiplications returns the number of multiplications of one forward pass.
func (n *net) multiplications() int {
	m := n.flatten.in*n.flatten.out + n.hidden[0].in*n.Hidden + n.Hidden*n.Hidden +
		(n.Hidden+n.vectorInputs())*n.outputs
	for _, c := range n.convs {
		m += c.positions() * c.fan() * c.out
	}
	return m
}

// TestLearn prints the learning curve of each seed and the mean curve. It asserts nothing about them.
func TestLearn(t *testing.T) {
	if *learnSeeds == 0 {
		t.Skip("a measurement, run it with -learn N")
	}
	var before, after float64
	curve := make([]float64, *learnIter)
	for seed := range uint64(*learnSeeds) {
		l := newLearning(t, seed)
		cloned := l.imitate(t)
		first, firstGreedy := l.evaluate(t, false), l.evaluate(t, true)
		fmt.Fprintf(
			os.Stderr,
			"seed %d: %d parameters, %d MAC, cloned in %.1fs, success sampled %.2f greedy %.2f\n",
			seed,
			l.p.net.size,
			l.p.net.multiplications(),
			cloned.Seconds(),
			first,
			firstGreedy,
		)
		for it := range curve {
			curve[it] += l.iterate(t, it) / float64(*learnSeeds)
		}
		last, lastGreedy := l.evaluate(t, false), l.evaluate(t, true)
		fmt.Fprintf(
			os.Stderr,
			"seed %d: after: sampled %.2f greedy %.2f; clone %.1fs act %.1fs update %.1fs\n",
			seed,
			last,
			lastGreedy,
			cloned.Seconds(),
			l.acting.Seconds(),
			l.updating.Seconds(),
		)
		before, after = before+first/float64(*learnSeeds), after+last/float64(*learnSeeds)
	}
	fmt.Fprintf(
		os.Stderr,
		"mean of %d seeds: before %.3f after %.3f, curve %.2f\n",
		*learnSeeds,
		before,
		after,
		curve,
	)
}

// learning is the run of one seed.
type learning struct {
	seed             uint64
	w                *testEnv
	p                *Policy
	acting, updating time.Duration
}

func newLearning(t *testing.T, seed uint64) *learning {
	info, err := New().Info(ctx)
	require.NoError(t, err)
	envInfo, err := tabletop.New().Info(ctx)
	require.NoError(t, err)
	lanes := max(*learnGroup**learnSize, 100)
	l := &learning{
		seed: seed,
		w:    newTestEnv(t, lanes, *learnTask, parseSettings(t, *learnEnv, envInfo.Settings)),
		p:    New(),
	}
	config := plugins.Config{Settings: parseSettings(t, *learnSet, info.Settings), Seed: seed, Env: &l.w.spec}
	require.NoError(t, l.p.Configure(ctx, config))
	return l
}

// imitate clones the expert's demonstrations and returns the time it took.
func (l *learning) imitate(t *testing.T) time.Duration {
	begin := startCPUTime()
	var demos []policy.Demonstration
	for i := range *learnDemo {
		state := int(deriveSeed(l.seed, "demo", i) % uint64(l.w.task.StartStates))
		demos = append(demos, l.w.demonstration(t, state, deriveSeed(l.seed, "demo seed", i)))
	}
	require.NoError(t, l.p.Imitate(ctx, policy.Imitate{ID: 1, Seed: l.seed}, sequence(demos...), nil))
	return begin.since()
}

// evaluate returns the success rate of 100 episodes.
func (l *learning) evaluate(t *testing.T, greedy bool) float64 {
	starts := make([]int, 100)
	for i := range starts {
		starts[i] = i % l.w.task.StartStates
	}
	act := policy.Act{Greedy: greedy, Temperature: *learnTemp}
	return successRate(l.w.rollout(t, l.p, act, starts, func(i int) string { return fmt.Sprint("eval/", i) }, l.seed))
}

// iterate runs one iteration of rollouts and an update, and returns the success rate of its rollouts.
func (l *learning) iterate(t *testing.T, it int) float64 {
	watch := startCPUTime()
	n := *learnGroup * *learnSize
	starts := make([]int, n)
	for i := range starts {
		source := i
		if *learnStart {
			source = i / *learnSize
		}
		starts[i] = int(deriveSeed(l.seed, "start", it, source) % uint64(l.w.task.StartStates))
	}
	name := func(i int) string { return fmt.Sprintf("%d/%d/%d", it, i / *learnSize, i%*learnSize) }
	episodes := l.w.rollout(t, l.p, policy.Act{Temperature: *learnTemp, Record: true}, starts, name, l.seed)
	l.acting += watch.since()

	watch = startCPUTime()
	u := policy.Update{ID: uint64(it + 1), Temperature: *learnTemp, Seed: deriveSeed(l.seed, "update", it),
		Trajectories: advantages(episodes), Hyperparameters: policy.Hyperparameters{ClipLow: *learnLow,
			ClipHigh: *learnHigh, ClipDual: *learnDual, KLBeta: *learnBeta, Epochs: *learnEpoch,
			MiniBatch: *learnBatch}}
	var s policy.Statistics
	if len(u.Trajectories) > 0 {
		var err error
		s, err = l.p.Update(ctx, u, nil)
		require.NoError(t, err)
	}
	require.NoError(t, l.p.Forget(ctx, nil))
	l.updating += watch.since()
	if *learnEvery {
		var steps, progress float64
		for _, e := range episodes {
			steps, progress = steps+float64(e.steps)/float64(n), progress+e.progress/float64(n)
		}
		fmt.Fprintf(
			os.Stderr,
			"  %2d: success %.3f progress %.2f steps %.0f groups %d samples %d kl %.3f clip %.3f grad %.2f "+
				"ratio1 %.6f max %.2f  act %.1fs update %.1fs\n",
			it,
			successRate(episodes),
			progress,
			steps,
			len(
				u.Trajectories,
			) / *learnSize,
			s.Samples,
			s.KL,
			s.ClipFraction,
			s.GradNorm,
			s.FirstRatio,
			s.Extra["ratio_max"],
			l.acting.Seconds(),
			l.updating.Seconds(),
		)
	}
	return successRate(episodes)
}

// advantages returns the group-relative advantages of episodes with a binary reward. Groups with equal
// rewards are skipped.
func advantages(episodes []episode) []policy.Advantage {
	var out []policy.Advantage
	for g := range *learnGroup {
		group := episodes[g**learnSize : (g+1)**learnSize]
		m := successRate(group)
		std := math.Sqrt(m*(1-m) + 1e-6)
		if m == 0 || m == 1 {
			continue
		}
		for _, e := range group {
			a := policy.Advantage{Trajectory: e.id, Steps: e.steps, Values: []float64{-m / std}}
			if e.success {
				a.Values[0] = (1 - m) / std
			}
			out = append(out, a)
		}
	}
	return out
}
