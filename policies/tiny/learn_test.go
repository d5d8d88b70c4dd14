package tiny

import (
	"context"
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

// The learning curve of the whole recipe in one process, one expert demonstration to RL with a binary reward:
//
//	go test ./policies/tiny -run TestLearn -v -learn 3 [-set lr=1e-3,head=tokens] [-task tabletop/two_blocks] [-epochs 4] ...
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

// stopwatch measures what the process's own work would take on two otherwise idle cores: half of its CPU time.
type stopwatch time.Duration

func start() stopwatch {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return stopwatch(u.Utime.Nano() + u.Stime.Nano())
}

func (s stopwatch) since() time.Duration { return time.Duration(start()-s) / 2 }

func number(seed uint64, parts ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, seed, parts)
	return rand.New(rand.NewPCG(h.Sum64(), 1)).Uint64()
}

func given(t testing.TB, list string, declared []plugins.Setting) plugins.Settings {
	m := map[string]any{}
	for _, kv := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
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

// world is an env with as many lanes as there are episodes.
type world struct {
	env.Env
	spec  plugins.EnvSpec
	task  env.Task
	steps int
}

func newWorld(t testing.TB, lanes int, task string, settings plugins.Settings) *world {
	ctx := context.Background()
	w := &world{Env: tabletop.New()}
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

func (w *world) demonstrate(t testing.TB, state int, seed uint64) policy.Demonstration {
	ctx := context.Background()
	render := env.Render{Observe: []string{w.spec.RecordCamera}}
	d := policy.Demonstration{ID: fmt.Sprint("demo/", state), Instruction: w.task.Instruction}
	tr, err := w.Reset(ctx, env.Reset{Task: w.task.ID, StartState: state, Seed: seed, Render: render})
	require.NoError(t, err)
	var pictures, proprio, actions []byte
	var shape []int
	n := 0
	for !tr.Done() {
		im := tr.Observation.Images[w.spec.RecordCamera]
		shape = im.Shape
		pictures, proprio = append(pictures, im.Data...), append(proprio, tr.Observation.Proprio.Data...)
		tr, err = w.Step(ctx, env.Step{Expert: 1, Render: render})
		require.NoError(t, err)
		actions = append(actions, tr.Actions.Data...)
		n++
	}
	d.Success = tr.Success
	d.Images = map[string]plugins.Tensor{w.spec.RecordCamera: plugins.Bytes(pictures, n, shape[0], shape[1], 3)}
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

// episode is one outcome.
type episode struct {
	id       string
	success  bool
	steps    int
	progress float64
}

// roll runs one episode on every lane, all in step with each other.
func (w *world) roll(t testing.TB, p *Policy, a policy.Act, starts []int, name func(i int) string, seed uint64) []episode {
	ctx := context.Background()
	render := env.Render{}
	spec, err := p.Describe(ctx)
	require.NoError(t, err)
	if len(spec.Cameras) > 0 {
		render.Observe = []string{w.spec.RecordCamera}
	}
	last := make([]env.Transition, len(starts))
	workers(len(starts), func(_, i int) {
		var err error
		last[i], err = w.Reset(ctx, env.Reset{Lane: i, Task: w.task.ID, StartState: starts[i], Seed: number(seed, name(i)), Render: render})
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
				a.Items = append(a.Items, policy.Item{Trajectory: name(i), Step: last[i].EpisodeSteps, Observation: last[i].Observation, Seed: number(seed, name(i), last[i].EpisodeSteps)})
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

func rate(e []episode) float64 {
	var s float64
	for _, x := range e {
		if x.success {
			s++
		}
	}
	return s / float64(len(e))
}

// TestLearn prints the curve; it has no opinion on it.
func TestLearn(t *testing.T) {
	if *learnSeeds == 0 {
		t.Skip("a measurement, run it with -learn N")
	}
	ctx := context.Background()
	var info plugins.Info
	info, err := New().Info(ctx)
	require.NoError(t, err)
	envInfo, err := tabletop.New().Info(ctx)
	require.NoError(t, err)
	n := *learnGroup * *learnSize
	finals, firsts, mean := 0.0, 0.0, make([]float64, *learnIter)
	for seed := range uint64(*learnSeeds) {
		begin := start()
		w := newWorld(t, max(n, 100), *learnTask, given(t, *learnEnv, envInfo.Settings))
		p := New()
		require.NoError(t, p.Configure(ctx, plugins.Config{Settings: given(t, *learnSet, info.Settings), Seed: seed, Env: &w.spec}))
		var demos []policy.Demonstration
		for i := range *learnDemo {
			demos = append(demos, w.demonstrate(t, int(number(seed, "demo", i)%uint64(w.task.StartStates)), number(seed, "demo seed", i)))
		}
		var loss float64
		require.NoError(t, p.Imitate(ctx, policy.Imitate{ID: 1, Seed: seed}, sequence(demos...), func(_, l float64) { loss = l }))
		cloned := begin.since()
		evaluate := func(greedy bool) float64 {
			starts := make([]int, 100)
			for i := range starts {
				starts[i] = i % w.task.StartStates
			}
			return rate(w.roll(t, p, policy.Act{Greedy: greedy, Temperature: *learnTemp}, starts, func(i int) string { return fmt.Sprint("eval/", i) }, seed))
		}
		first, firstGreedy := evaluate(false), evaluate(true)
		fmt.Fprintf(os.Stderr, "seed %d: %d parameters, %d MAC, demo %d steps, cloned in %.1fs, loss %.5f, success sampled %.2f greedy %.2f\n", seed, p.net.size,
			p.net.multiplications(), demos[0].Actions.Shape[0], cloned.Seconds(), loss, first, firstGreedy)
		var acting, updating time.Duration
		for it := range *learnIter {
			watch := start()
			starts := make([]int, n)
			for i := range starts {
				who := i
				if *learnStart {
					who = i / *learnSize
				}
				starts[i] = int(number(seed, "start", it, who) % uint64(w.task.StartStates))
			}
			eps := w.roll(t, p, policy.Act{Temperature: *learnTemp, Record: true}, starts, func(i int) string { return fmt.Sprintf("%d/%d/%d", it, i / *learnSize, i%*learnSize) }, seed)
			acting += watch.since()
			watch = start()
			u := policy.Update{ID: uint64(it + 1), Temperature: *learnTemp, Seed: number(seed, "update", it), Hyperparameters: policy.Hyperparameters{
				ClipLow: *learnLow, ClipHigh: *learnHigh, ClipDual: *learnDual, KLBeta: *learnBeta, Epochs: *learnEpoch, MiniBatch: *learnBatch}}
			for g := range *learnGroup {
				group := eps[g**learnSize : (g+1)**learnSize]
				m := rate(group)
				std := math.Sqrt(m*(1-m) + 1e-6)
				if m == 0 || m == 1 {
					continue
				}
				for _, e := range group {
					a := policy.Advantage{Trajectory: e.id, Steps: e.steps, Values: []float64{-m / std}}
					if e.success {
						a.Values[0] = (1 - m) / std
					}
					u.Trajectories = append(u.Trajectories, a)
				}
			}
			var s policy.Statistics
			if len(u.Trajectories) > 0 {
				s, err = p.Update(ctx, u, nil)
				require.NoError(t, err)
			}
			require.NoError(t, p.Forget(ctx, nil))
			updating += watch.since()
			mean[it] += rate(eps) / float64(*learnSeeds)
			if *learnEvery {
				var steps, prog float64
				for _, e := range eps {
					steps, prog = steps+float64(e.steps)/float64(n), prog+e.progress/float64(n)
				}
				fmt.Fprintf(os.Stderr, "  %2d: success %.3f progress %.2f steps %.0f groups %d samples %d kl %.3f clip %.3f grad %.2f ratio1 %.6f max %.2f  act %.1fs update %.1fs\n", it, rate(eps), prog, steps,
					len(u.Trajectories) / *learnSize, s.Samples, s.KL, s.ClipFraction, s.GradNorm, s.FirstRatio, s.Extra["ratio_max"], acting.Seconds(), updating.Seconds())
			}
		}
		last, lastGreedy := evaluate(false), evaluate(true)
		fmt.Fprintf(os.Stderr, "seed %d: after: sampled %.2f greedy %.2f; clone %.1fs act %.1fs update %.1fs\n", seed, last, lastGreedy, cloned.Seconds(), acting.Seconds(), updating.Seconds())
		finals, firsts = finals+last/float64(*learnSeeds), firsts+first/float64(*learnSeeds)
	}
	fmt.Fprintf(os.Stderr, "mean of %d seeds: before %.3f after %.3f, curve %.2f\n", *learnSeeds, firsts, finals, mean)
}
