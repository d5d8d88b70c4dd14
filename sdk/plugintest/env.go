package plugintest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand"
	"path"
	"reflect"
	"strings"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
)

// envRun is what the env checks share: the configured env, one task that runs, and chunks of seeded random actions.
type envRun struct {
	env      env.Env
	settings map[string]any
	lanes    int
	spec     plugins.EnvSpec
	wanted   string // pattern over task ids; empty: any
	task     env.Task
	record   string
}

// Env lists the checks of an env that is not configured yet; the second of them configures it. Run them in order.
func Env(e env.Env, settings map[string]any) []Check { return EnvTask(e, settings, "") }

// EnvTask is Env with the first task whose id matches a pattern, * standing for any characters; empty: the first that can run.
func EnvTask(e env.Env, settings map[string]any, pattern string) []Check {
	r := &envRun{env: e, settings: settings, wanted: pattern}
	ready := func(run func(ctx context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if r.task.ID == "" {
				return Skip("the env was not configured")
			}
			return run(ctx)
		}
	}
	return []Check{
		info(e, plugins.Env),
		{"Describe names action space and cameras, Tasks lists the tasks", r.configure},
		{"Reset gives what Describe promises", ready(r.reset)},
		{"nothing is rendered that nobody looks at", ready(r.blind)},
		{"the same seed and actions give the same episode, on every lane", ready(r.deterministic)},
		{"a chunk is the same as its actions one by one", ready(r.chunks)},
		{"record_every counts from the start of the episode", ready(r.recordEvery)},
		{"an episode is truncated at its most steps, not terminated", ready(r.truncated)},
		{"bad actions are refused, and the episode goes on", ready(r.badActions)},
		{"unknown tasks, start states and lanes are refused", ready(r.badRequests)},
		{"the expert's actions can be replayed", ready(r.expert)},
	}
}

func (r *envRun) configure(ctx context.Context) error {
	i, err := r.env.Info(ctx)
	if err != nil {
		return err
	}
	s, err := plugins.Resolve(i.Settings, r.settings)
	if err != nil {
		return err
	}
	r.lanes = min(max(i.MaxLanes, 1), 2)
	if err := r.env.Configure(ctx, plugins.Config{Settings: s, Seed: 1, WorldSize: 1, Lanes: r.lanes}); err != nil {
		return err
	}
	if r.spec, err = r.env.Describe(ctx); err != nil {
		return err
	}
	if err := r.spec.Action.Check(); err != nil {
		return err
	}
	if r.spec.Action.Meaning == "" {
		return wants(`say what the numbers are, e.g. "end-effector delta [m]"`, "the action space has no meaning")
	}
	r.record = r.spec.RecordCamera
	if r.record == "" {
		return wants("name the third-person camera that the encoder should see", "Describe names no record_camera")
	}
	var tasks, again []env.Task
	for t, err := range r.env.Tasks(ctx) {
		if err != nil {
			return err
		}
		tasks = append(tasks, t)
	}
	for t, err := range r.env.Tasks(ctx) {
		if err != nil {
			return err
		}
		again = append(again, t)
	}
	if len(tasks) == 0 {
		return wants("yield at least one", "Tasks lists no task")
	}
	if !reflect.DeepEqual(tasks, again) {
		return wants("yield the tasks in a fixed order", "Tasks gives another list the second time")
	}
	why, matching := "", 0
	for _, t := range tasks {
		if !matches(r.wanted, t.ID) {
			continue
		}
		matching++
		if t.Unavailable == "" {
			if t.Instruction == "" {
				return wants("a policy needs words", "task %q has no instruction", t.ID)
			}
			r.task = t
			return nil
		}
		why = t.Unavailable
	}
	if matching == 0 {
		return wants(fmt.Sprintf("there are %d tasks, for example %s", len(tasks), tasks[0].ID), "no task matches %q", r.wanted)
	}
	return wants(why, "no task can run here")
}

// matches is path.Match in which a * goes over slashes too; an empty pattern matches all.
func matches(pattern, id string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(id, "/", "\x00"))
	return err == nil && ok
}

func (r *envRun) render(every int) env.Render {
	w := env.Render{Record: r.record, RecordEvery: every}
	for _, c := range r.spec.Cameras {
		w.Observe = append(w.Observe, c.Name)
	}
	return w
}

// actions gives n seeded random actions over the whole range.
func (r *envRun) actions(seed int64, n int) plugins.Tensor {
	rng := rand.New(rand.NewSource(seed))
	a := r.spec.Action
	v := make([]float32, 0, n*a.Dim())
	for range n {
		for d := range a.Names {
			v = append(v, a.Low[d]+(a.High[d]-a.Low[d])*float32(rng.Float64()))
		}
	}
	return plugins.Floats(v, n, a.Dim())
}

func slice(t plugins.Tensor, from, to int) plugins.Tensor {
	row := len(t.Data) / t.Shape[0]
	return plugins.Tensor{DType: t.DType, Shape: append([]int{to - from}, t.Shape[1:]...), Data: t.Data[from*row : to*row]}
}

func (r *envRun) reset(ctx context.Context) error {
	tr, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 1, Render: r.render(1)})
	if err != nil {
		return err
	}
	for _, c := range r.spec.Cameras {
		if err := tr.Observation.Images[c.Name].Check("the image of camera "+c.Name, plugins.Uint8, c.Height, c.Width, 3); err != nil {
			return err
		}
	}
	if err := frames(tr, 1); err != nil {
		return err
	}
	if n := len(tr.Observation.Proprio.Float32s()); n != len(r.spec.Proprio) {
		return wants("return as many as Describe names", "the observation has %d proprio values, Describe names %d", n, len(r.spec.Proprio))
	}
	if tr.Observation.Instruction != r.task.Instruction {
		return wants("give the task's instruction with every observation", "the instruction is %q, the task's is %q", tr.Observation.Instruction, r.task.Instruction)
	}
	if tr.Done() || tr.Success || tr.StepsDone != 0 || tr.EpisodeSteps != 0 {
		return wants("waiting steps do not count", "Reset says done %t, success %t, %d steps", tr.Done(), tr.Success, tr.EpisodeSteps)
	}
	return nil
}

func frames(tr env.Transition, want int) error {
	got := 0
	if !tr.Recorded.IsZero() {
		got = tr.Recorded.Shape[0]
	}
	if got != want {
		return wants("record after every k-th step of the episode; Reset records step 0", "%d frames were recorded, want %d", got, want)
	}
	return nil
}

func (r *envRun) blind(ctx context.Context) error {
	tr, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 1})
	if err != nil {
		return err
	}
	for range 2 {
		if len(tr.Observation.Images) > 0 || !tr.Recorded.IsZero() {
			return wants("render only what the request names", "%d images and %v recorded frames came unasked", len(tr.Observation.Images), tr.Recorded.Shape)
		}
		if tr, err = r.env.Step(ctx, env.Step{Actions: r.actions(1, 3)}); err != nil {
			return err
		}
	}
	return nil
}

// episode plays chunks of random actions and returns all transitions.
func (r *envRun) episode(ctx context.Context, lane int, seed uint64, all plugins.Tensor, chunk, every int) ([]env.Transition, error) {
	tr, err := r.env.Reset(ctx, env.Reset{Lane: lane, Task: r.task.ID, Seed: seed, Render: r.render(every)})
	out := []env.Transition{tr}
	for at := 0; err == nil && at < all.Shape[0] && !tr.Done(); at += chunk {
		tr, err = r.env.Step(ctx, env.Step{Lane: lane, Actions: slice(all, at, min(at+chunk, all.Shape[0])), Render: r.render(every)})
		out = append(out, tr)
	}
	return out, err
}

func (r *envRun) deterministic(ctx context.Context) error {
	all := r.actions(2, 16)
	first, err := r.episode(ctx, 0, 5, all, 8, 4)
	if err != nil {
		return err
	}
	for lane := range r.lanes {
		// something else in between, so that state left over from an episode shows
		if _, err := r.episode(ctx, lane, 9, r.actions(3, 8), 8, 4); err != nil {
			return err
		}
		again, err := r.episode(ctx, lane, 5, all, 8, 4)
		if err != nil {
			return err
		}
		if d := differ(first, again); d != "" {
			return wants("seed everything from the seed of Reset, and clear all state there", "the same episode on lane %d differs: %s", lane, d)
		}
	}
	return nil
}

func differ(a, b []env.Transition) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d chunks against %d", len(a), len(b))
	}
	for i := range a {
		if reflect.DeepEqual(a[i], b[i]) {
			continue
		}
		x, y := a[i], b[i]
		for name := range x.Observation.Images {
			if !bytes.Equal(x.Observation.Images[name].Data, y.Observation.Images[name].Data) {
				return fmt.Sprintf("chunk %d: pixels of camera %s", i, name)
			}
		}
		if !bytes.Equal(x.Observation.Proprio.Data, y.Observation.Proprio.Data) {
			return fmt.Sprintf("chunk %d: proprio %v against %v", i, x.Observation.Proprio.Float32s(), y.Observation.Proprio.Float32s())
		}
		if !bytes.Equal(x.Recorded.Data, y.Recorded.Data) {
			return fmt.Sprintf("chunk %d: recorded frames", i)
		}
		return fmt.Sprintf("chunk %d: steps %d/%d, success %t/%t, terminated %t/%t, truncated %t/%t, progress %v/%v", i, x.EpisodeSteps, y.EpisodeSteps,
			x.Success, y.Success, x.Terminated, y.Terminated, x.Truncated, y.Truncated, number(x.Progress), number(y.Progress))
	}
	return ""
}

func number(p *float64) any {
	if p == nil {
		return "none"
	}
	return *p
}

func (r *envRun) chunks(ctx context.Context) error {
	all := r.actions(4, 8)
	whole, err := r.episode(ctx, 0, 3, all, 8, 1)
	if err != nil {
		return err
	}
	single, err := r.episode(ctx, 0, 3, all, 1, 1)
	if err != nil {
		return err
	}
	a, b := whole[len(whole)-1], single[len(single)-1]
	if !reflect.DeepEqual(a.Observation, b.Observation) || a.EpisodeSteps != b.EpisodeSteps || a.Success != b.Success || a.Done() != b.Done() {
		return wants("execute the actions of a chunk one after another, and stop where the episode ends", "after 8 steps the episode differs: one chunk %d steps, single actions %d steps",
			a.EpisodeSteps, b.EpisodeSteps)
	}
	var frames []byte
	for _, tr := range single[1:] {
		frames = append(frames, tr.Recorded.Data...)
	}
	if !bytes.Equal(frames, a.Recorded.Data) {
		return wants("render the state after each step", "the frames recorded in a chunk differ from those of single actions")
	}
	return nil
}

func (r *envRun) recordEvery(ctx context.Context) error {
	all := r.actions(5, 10)
	got, err := r.episode(ctx, 0, 3, all, 5, 3)
	if err != nil {
		return err
	}
	if err := frames(got[0], 1); err != nil {
		return err
	}
	at := 0
	for _, tr := range got[1:] {
		if err := frames(tr, env.Render{Record: "x", RecordEvery: 3}.Frames(at, tr.StepsDone)); err != nil {
			return plugins.AsError(err).WithPlace("record_every 3, steps %d to %d", at+1, at+tr.StepsDone)
		}
		at += tr.StepsDone
	}
	return nil
}

func (r *envRun) truncated(ctx context.Context) error {
	if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 3, MaxSteps: 5}); err != nil {
		return err
	}
	tr, err := r.env.Step(ctx, env.Step{Actions: r.actions(6, 8)})
	if err != nil {
		return err
	}
	if tr.Terminated {
		return Skip("the episode ended by itself within 5 random steps")
	}
	if tr.StepsDone != 5 || !tr.Truncated {
		return wants("stop at max_steps, say truncated, and leave terminated false", "max_steps 5, 8 actions: %d executed, truncated %t", tr.StepsDone, tr.Truncated)
	}
	_, err = r.env.Step(ctx, env.Step{Actions: r.actions(6, 1)})
	return refused(err, "a step after the end of the episode", plugins.Invalid)
}

func (r *envRun) badActions(ctx context.Context) error {
	dim := r.spec.Action.Dim()
	clean := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = (r.spec.Action.Low[i%dim] + r.spec.Action.High[i%dim]) / 2
		}
		return v
	}
	with := func(x float32) plugins.Tensor { v := clean(dim); v[dim-1] = x; return plugins.Floats(v, 1, dim) }
	if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 3}); err != nil {
		return err
	}
	for what, a := range map[string]plugins.Tensor{
		"an action with a dimension too many": plugins.Floats(clean(dim+1), 1, dim+1),
		"NaN in an action":                    with(float32(math.NaN())),
		"infinity in an action":               with(float32(math.Inf(1))),
		"an action far outside of its range":  with(r.spec.Action.High[dim-1] + 10*(r.spec.Action.High[dim-1]-r.spec.Action.Low[dim-1])),
		"an empty chunk":                      {DType: plugins.Float32, Shape: []int{0, dim}, Data: []byte{}},
	} {
		_, err := r.env.Step(ctx, env.Step{Actions: a})
		if err := refused(err, what, plugins.Invalid); err != nil {
			return err
		}
	}
	tr, err := r.env.Step(ctx, env.Step{Actions: plugins.Floats(clean(dim), 1, dim)})
	if err != nil {
		return err
	}
	if tr.EpisodeSteps != 1 {
		return wants("check all actions before executing any", "after refused actions and one good one the episode has %d steps", tr.EpisodeSteps)
	}
	return nil
}

func (r *envRun) badRequests(ctx context.Context) error {
	_, err := r.env.Reset(ctx, env.Reset{Task: "no/such task"})
	if err := refused(err, "an unknown task", plugins.NotFound, plugins.Invalid); err != nil {
		return err
	}
	_, err = r.env.Reset(ctx, env.Reset{Task: r.task.ID, StartState: r.task.StartStates})
	if err := refused(err, "a start state beyond the last", plugins.Invalid, plugins.NotFound); err != nil {
		return err
	}
	_, err = r.env.Reset(ctx, env.Reset{Lane: 1 << 20, Task: r.task.ID})
	if err := refused(err, "a lane that does not exist", plugins.Invalid, plugins.NotFound); err != nil {
		return err
	}
	_, err = r.env.Reset(ctx, env.Reset{Task: r.task.ID, Render: env.Render{Observe: []string{"no such camera"}}})
	return refused(err, "a camera that does not exist", plugins.Invalid, plugins.NotFound)
}

// expert lets the expert act, at its best and in each of the ways in which it can fail, and replays what it did.
func (r *envRun) expert(ctx context.Context) error {
	if !r.spec.Expert {
		return Skip("the env has no expert")
	}
	for _, failure := range append([]string{""}, r.spec.ExpertFailures...) {
		if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 4}); err != nil {
			return err
		}
		steps := min(r.task.MaxSteps, 24)
		tr, err := r.env.Step(ctx, env.Step{Expert: steps, ExpertNoise: 0.1, ExpertFailure: failure})
		gaveUp := err == nil && tr.StepsDone == 0 && !tr.Done()
		if failure == "" && (gaveUp || plugins.KindOf(err) == plugins.Unsupported) {
			return Skip("no expert for task " + r.task.ID)
		}
		if err != nil {
			return err
		}
		if tr.Actions.IsZero() || tr.Actions.Shape[0] != tr.StepsDone {
			return wants("return the executed actions", "the expert did %d steps and returned actions of shape %v", tr.StepsDone, tr.Actions.Shape)
		}
		if !tr.Intended.IsZero() && (tr.Intended.Shape[0] != tr.StepsDone || tr.Intended.Shape[1] != tr.Actions.Shape[1]) {
			return wants("return an intended action beside each executed one, or none", "the expert did %d steps and meant actions of shape %v", tr.StepsDone, tr.Intended.Shape)
		}
		if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 4}); err != nil {
			return err
		}
		again, err := r.env.Step(ctx, env.Step{Actions: tr.Actions})
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(tr.Observation, again.Observation) || tr.Success != again.Success {
			return wants("return exactly what was executed, after clipping and rounding to float32", "replaying the expert's actions ends elsewhere")
		}
	}
	if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 4}); err != nil {
		return err
	}
	_, err := r.env.Step(ctx, env.Step{Expert: 1, ExpertFailure: "no such failure"})
	return refused(err, "a way to fail that is not in Describe", plugins.Unsupported, plugins.Invalid, plugins.NotFound)
}
