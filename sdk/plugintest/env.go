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

// envRun is the state that the env checks share.
type envRun struct {
	env      env.Env
	settings map[string]any
	lanes    int
	spec     plugins.EnvSpec
	pattern  string   // of task IDs; see EnvTask
	task     env.Task // the task that the checks run
	record   string   // the recorded camera
}

// Env returns the checks of an env that is not configured yet. The second check configures it. Run them in order.
func Env(e env.Env, settings map[string]any) []Check { return EnvTask(e, settings, "") }

// EnvTask is [Env] with the first available task whose ID matches a pattern, in which * stands for any characters.
// An empty pattern matches every ID.
func EnvTask(e env.Env, settings map[string]any, pattern string) []Check {
	r := &envRun{env: e, settings: settings, pattern: pattern}
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
		{"Describe returns action space and cameras, Tasks lists the tasks", r.configure},
		{"Reset returns what Describe promises", ready(r.reset)},
		{"a start state is the same with every seed", ready(r.startStates)},
		{"only the cameras of the request are rendered", ready(r.blind)},
		{"the same seed and actions give the same episode, on every lane", ready(r.deterministic)},
		{"a chunk is the same as its actions one by one", ready(r.chunks)},
		{"record_every counts from the start of the episode", ready(r.recordEvery)},
		{"an episode is truncated at max_steps, not terminated", ready(r.truncated)},
		{"bad actions are refused, and the episode continues", ready(r.badActions)},
		{"unknown tasks, start states and lanes are refused", ready(r.badRequests)},
		{"the expert's actions can be replayed", ready(r.expert)},
		{"an expert with noise reports the actions that it intended", ready(r.intended)},
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
		return wants(`state what the numbers are, e.g. "end-effector delta [m]"`, "the action space has no meaning")
	}
	if r.record = r.spec.RecordCamera; r.record == "" {
		return wants("name the third-person camera whose frames the encoder receives",
			"Describe names no record_camera")
	}
	tasks, err := r.tasks(ctx)
	if err != nil {
		return err
	}
	again, err := r.tasks(ctx)
	if err != nil {
		return err
	}
	if len(tasks) == 0 {
		return wants("list at least one task", "Tasks lists no task")
	}
	if !reflect.DeepEqual(tasks, again) {
		return wants("list the tasks in a fixed order", "Tasks returns another list the second time")
	}
	return r.chooseTask(tasks)
}

func (r *envRun) tasks(ctx context.Context) (tasks []env.Task, err error) {
	for t, err := range r.env.Tasks(ctx) {
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, t)
	}
	return tasks, nil
}

// chooseTask selects the first available task that matches the pattern.
func (r *envRun) chooseTask(tasks []env.Task) error {
	reason, matching := "", 0
	for _, t := range tasks {
		if !matches(r.pattern, t.ID) {
			continue
		}
		matching++
		if t.Unavailable != "" {
			reason = t.Unavailable
			continue
		}
		if t.Instruction == "" {
			return wants("give every task an instruction, which policies read", "task %q has no instruction", t.ID)
		}
		r.task = t
		return nil
	}
	if matching == 0 {
		return wants(fmt.Sprintf("there are %d tasks, for example %s", len(tasks), tasks[0].ID), "no task matches %q",
			r.pattern)
	}
	return wants(reason, "no task can run here")
}

// matches is path.Match with a * that also matches slashes. An empty pattern matches every ID.
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

// actions returns n random actions over the whole range, float32 [n, action dim].
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
	return plugins.Tensor{
		DType: t.DType,
		Shape: append([]int{to - from}, t.Shape[1:]...),
		Data:  t.Data[from*row : to*row],
	}
}

func (r *envRun) reset(ctx context.Context) error {
	tr, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 1, Render: r.render(1)})
	if err != nil {
		return err
	}
	for _, c := range r.spec.Cameras {
		image := tr.Observation.Images[c.Name]
		if err := image.Check("the image of camera "+c.Name, plugins.Uint8, c.Height, c.Width, 3); err != nil {
			return err
		}
	}
	if err := frames(tr, 1); err != nil {
		return err
	}
	if n := len(tr.Observation.Proprio.Float32s()); n != len(r.spec.Proprio) {
		return wants("return one proprio value per name in Describe",
			"the observation has %d proprio values, Describe names %d", n, len(r.spec.Proprio))
	}
	if tr.Observation.Instruction != r.task.Instruction {
		return wants("return the task's instruction with every observation",
			"the instruction is %q, the task's is %q", tr.Observation.Instruction, r.task.Instruction)
	}
	if tr.Done() || tr.Success || tr.StepsDone != 0 || tr.EpisodeSteps != 0 {
		return wants("begin an episode with 0 steps; steps that wait for objects to settle do not count",
			"Reset returns done %t, success %t, %d steps", tr.Done(), tr.Success, tr.EpisodeSteps)
	}
	return nil
}

// startStates resets a start state under two seeds. The splits into training and test states and the comparisons
// of two policies on the same states need a number to always mean the same state.
func (r *envRun) startStates(ctx context.Context) error {
	for _, state := range []int{0, r.task.StartStates - 1} {
		first, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, StartState: state, Seed: 1, Render: r.render(0)})
		if err != nil {
			return err
		}
		second, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, StartState: state, Seed: 2, Render: r.render(0)})
		if err != nil {
			return err
		}
		if r.task.Tags["dimension"] == "noise" { // the pixels of these tasks follow from the seed
			first.Observation.Images, second.Observation.Images = nil, nil
		}
		if d := observationDifference(first.Observation, second.Observation); d != "" {
			return wants(
				"choose a start state by task and start_state alone; the seed of Reset is for what happens afterwards",
				"start state %d of task %s is another one with another seed: %s",
				state,
				r.task.ID,
				d,
			)
		}
	}
	return nil
}

// observationDifference names the first difference between two observations. It returns "" if they are equal.
func observationDifference(a, b env.Observation) string {
	for name := range a.Images {
		if !bytes.Equal(a.Images[name].Data, b.Images[name].Data) {
			return "pixels of camera " + name
		}
	}
	if !bytes.Equal(a.Proprio.Data, b.Proprio.Data) {
		return fmt.Sprintf("proprio %v against %v", a.Proprio.Float32s(), b.Proprio.Float32s())
	}
	return ""
}

func frames(tr env.Transition, want int) error {
	got := 0
	if !tr.Recorded.IsZero() {
		got = tr.Recorded.Shape[0]
	}
	if got != want {
		return wants("record after every k-th step of the episode; Reset records step 0",
			"%d frames were recorded, want %d", got, want)
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
			return wants("render only the cameras of the request",
				"the reply to a request without cameras has %d images and recorded frames of shape %v",
				len(tr.Observation.Images), tr.Recorded.Shape)
		}
		if tr, err = r.env.Step(ctx, env.Step{Actions: r.actions(1, 3)}); err != nil {
			return err
		}
	}
	return nil
}

// episode plays chunks of random actions and returns all transitions.
func (r *envRun) episode(ctx context.Context, lane int, seed uint64, all plugins.Tensor,
	chunk, every int) ([]env.Transition, error) {
	tr, err := r.env.Reset(ctx, env.Reset{Lane: lane, Task: r.task.ID, Seed: seed, Render: r.render(every)})
	out := []env.Transition{tr}
	for at := 0; err == nil && at < all.Shape[0] && !tr.Done(); at += chunk {
		tr, err = r.env.Step(ctx,
			env.Step{Lane: lane, Actions: slice(all, at, min(at+chunk, all.Shape[0])), Render: r.render(every)})
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
		// Another episode in between shows state that Reset does not clear.
		if _, err := r.episode(ctx, lane, 9, r.actions(3, 8), 8, 4); err != nil {
			return err
		}
		again, err := r.episode(ctx, lane, 5, all, 8, 4)
		if err != nil {
			return err
		}
		if d := difference(first, again); d != "" {
			return wants("derive everything random from the seed of Reset, and clear all state there",
				"the same episode on lane %d differs: %s", lane, d)
		}
	}
	return nil
}

// difference names the first difference between two episodes. It returns "" if they are equal.
func difference(a, b []env.Transition) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d chunks against %d", len(a), len(b))
	}
	for i := range a {
		if reflect.DeepEqual(a[i], b[i]) {
			continue
		}
		x, y := a[i], b[i]
		if d := observationDifference(x.Observation, y.Observation); d != "" {
			return fmt.Sprintf("chunk %d: %s", i, d)
		}
		if !bytes.Equal(x.Recorded.Data, y.Recorded.Data) {
			return fmt.Sprintf("chunk %d: recorded frames", i)
		}
		return fmt.Sprintf("chunk %d: steps %d/%d, success %t/%t, terminated %t/%t, truncated %t/%t, progress %v/%v",
			i, x.EpisodeSteps, y.EpisodeSteps, x.Success, y.Success, x.Terminated, y.Terminated, x.Truncated,
			y.Truncated, progress(x.Progress), progress(y.Progress))
	}
	return ""
}

func progress(p *float64) any {
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
	if !reflect.DeepEqual(a.Observation, b.Observation) || a.EpisodeSteps != b.EpisodeSteps ||
		a.Success != b.Success ||
		a.Done() != b.Done() {
		return wants("execute the actions of a chunk one after another, and stop where the episode ends",
			"after 8 actions the episode differs: %d steps as one chunk, %d steps as single actions", a.EpisodeSteps,
			b.EpisodeSteps)
	}
	var frames []byte
	for _, tr := range single[1:] {
		frames = append(frames, tr.Recorded.Data...)
	}
	if !bytes.Equal(frames, a.Recorded.Data) {
		return wants("render the state after each step",
			"the frames recorded in a chunk differ from those of single actions")
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
		return Skip("the episode terminated within 5 random steps")
	}
	if tr.StepsDone != 5 || !tr.Truncated {
		return wants("stop at max_steps, set truncated, and leave terminated false",
			"max_steps 5, 8 actions: %d executed, truncated %t", tr.StepsDone, tr.Truncated)
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
		"an action with an extra dimension": plugins.Floats(clean(dim+1), 1, dim+1),
		"NaN in an action":                  with(float32(math.NaN())),
		"infinity in an action":             with(float32(math.Inf(1))),
		"an action far outside its range":   with(11*r.spec.Action.High[dim-1] - 10*r.spec.Action.Low[dim-1]),
		"an empty chunk":                    {DType: plugins.Float32, Shape: []int{0, dim}, Data: []byte{}},
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
		return wants("check all actions of a chunk before you execute one",
			"after refused actions and one valid action the episode has %d steps", tr.EpisodeSteps)
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

// expert lets the expert act, once as well as it can and once in each way of failing, and replays its actions.
func (r *envRun) expert(ctx context.Context) error {
	if !r.spec.Expert {
		return Skip("the env has no expert")
	}
	for _, failure := range append([]string{""}, r.spec.ExpertFailures...) {
		tr, err := r.actExpert(ctx,
			env.ExpertStep{Steps: min(r.task.MaxSteps, 24), Noise: 0.1, Failure: failure})
		if failure == "" && noExpert(tr, err) {
			return Skip("no expert for task " + r.task.ID)
		}
		if err != nil {
			return err
		}
		if tr.Actions.IsZero() || tr.Actions.Shape[0] != tr.StepsDone {
			return wants("return the executed actions",
				"the expert did %d steps and the reply has actions of shape %v", tr.StepsDone, tr.Actions.Shape)
		}
		if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 4}); err != nil {
			return err
		}
		again, err := r.env.Step(ctx, env.Step{Actions: tr.Actions})
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(tr.Observation, again.Observation) || tr.Success != again.Success {
			return wants("return exactly the executed actions, after clipping and rounding to float32",
				"replaying the expert's actions ends in another state")
		}
	}
	_, err := r.actExpert(ctx, env.ExpertStep{Steps: 1, Failure: "no such failure"})
	return refused(err, "a way to fail that Describe does not list", plugins.Unsupported, plugins.Invalid,
		plugins.NotFound)
}

// actExpert begins an episode and lets the expert act.
func (r *envRun) actExpert(ctx context.Context, s env.ExpertStep) (env.Transition, error) {
	if _, err := r.env.Reset(ctx, env.Reset{Task: r.task.ID, Seed: 4}); err != nil {
		return env.Transition{}, err
	}
	return env.StepExpert(ctx, r.env, s)
}

// noExpert reports whether a reply means that the task has no expert.
func noExpert(tr env.Transition, err error) bool {
	gaveUp := err == nil && tr.StepsDone == 0 && !tr.Done()
	return gaveUp || plugins.KindOf(err) == plugins.Unsupported
}

// intended compares the expert with noise to the expert without. Demonstrations with imitate.noise are labelled
// with the intended actions; without these the noise itself would be learned.
func (r *envRun) intended(ctx context.Context) error {
	if !r.spec.Expert {
		return Skip("the env has no expert")
	}
	calm, err := r.actExpert(ctx, env.ExpertStep{Steps: 1})
	if noExpert(calm, err) {
		return Skip("no expert for task " + r.task.ID)
	}
	if err != nil {
		return err
	}
	noisy, err := r.actExpert(ctx, env.ExpertStep{Steps: min(r.task.MaxSteps, 8), Noise: 0.1})
	if err != nil {
		return err
	}
	const hint = "return in Intended the clipped actions that the expert chose before the noise, one per step"
	dim := r.spec.Action.Dim()
	if err := noisy.Actions.Check("executed actions", plugins.Float32, noisy.StepsDone, dim); err != nil ||
		noisy.StepsDone == 0 {
		return err
	}
	if noisy.Intended.IsZero() {
		if bytes.Equal(slice(noisy.Actions, 0, 1).Data, calm.Actions.Data) {
			return nil // the env adds no noise
		}
		return wants(hint, "noise changed the expert's actions, and the reply has no intended actions")
	}
	if err := noisy.Intended.Check("intended actions", plugins.Float32, noisy.StepsDone, dim); err != nil {
		return plugins.AsError(err).WithHint(hint)
	}
	got, want := slice(noisy.Intended, 0, 1).Float32s(), calm.Actions.Float32s()
	for d := range want {
		if math.Abs(float64(got[d]-want[d])) > 1e-5 {
			return wants(hint, "the expert's first intended action with noise is %v, its action without noise is %v",
				got, want)
		}
	}
	return nil
}
