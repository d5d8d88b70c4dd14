package plugins_test

import (
	"context"
	"errors"
	"iter"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// connect serves a plugin over an in-memory connection.
func connect(t *testing.T, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(serve.Options()...)
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	opts := append(serve.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))
	cc, err := grpc.NewClient("passthrough:///x", opts...)
	require.NoError(t, err)
	t.Cleanup(func() { cc.Close() })
	return cc
}

// still is an env with one 64 x 64 camera. Each of its replies can be replaced.
type still struct {
	settings []plugins.Setting
	step     func(env.Step) (env.Transition, error)
	tasks    []env.Task
	got      plugins.Config
}

func (s *still) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "still", Kind: plugins.Env, Version: "1", Settings: s.settings, MaxLanes: 4}, nil
}
func (s *still) Configure(_ context.Context, c plugins.Config) error { s.got = c; return nil }
func (s *still) Describe(context.Context) (plugins.EnvSpec, error) {
	return plugins.EnvSpec{
		Cameras:      []plugins.Camera{{Name: "main", Height: 64, Width: 64, View: "third_person", AnySize: true}},
		RecordCamera: "main",
		Action: plugins.ActionSpace{
			Names:   []string{"dx", "dy"},
			Low:     []float32{-1, -1},
			High:    []float32{1, 1},
			Meaning: "delta",
		},
		Proprio: []string{"x [m]"},
	}, nil
}
func (s *still) Tasks(context.Context) iter.Seq2[env.Task, error] {
	return func(yield func(env.Task, error) bool) {
		for _, t := range s.tasks {
			if !yield(t, nil) {
				return
			}
		}
	}
}
func (s *still) Reset(_ context.Context, r env.Reset) (env.Transition, error) {
	if r.Task != "a" {
		return env.Transition{}, plugins.Errorf(plugins.NotFound, "no task %q", r.Task).
			WithHint("there is a").
			WithDetail("more")
	}
	return s.frame(1, 7), nil
}
func (s *still) Step(_ context.Context, st env.Step) (env.Transition, error) {
	if s.step != nil {
		return s.step(st)
	}
	n := st.Actions.Shape[0]
	tr := s.frame(n, byte(st.Actions.Float32s()[0]))
	tr.StepsDone, tr.EpisodeSteps = n, n
	return tr, nil
}
func (s *still) frame(n int, v byte) env.Transition {
	img := make([]byte, 64*64*3)
	rec := make([]byte, n*64*64*3)
	for i := range img {
		img[i] = v + byte(i)
	}
	for i := range rec {
		rec[i] = v + byte(i/7)
	}
	return env.Transition{
		Observation: env.Observation{Images: map[string]plugins.Tensor{"main": plugins.Bytes(img, 64, 64, 3)},
			Proprio: plugins.Floats([]float32{float32(v)}), Instruction: "do"},
		Recorded: plugins.Bytes(rec, n, 64, 64, 3),
	}
}

func openEnv(t *testing.T, impl *still) *env.Client {
	t.Helper()
	c := env.NewClient(connect(t, func(s grpc.ServiceRegistrar) { env.Register(s, impl) }), nil)
	require.NoError(t, c.Configure(context.Background(), plugins.Config{Lanes: 1}))
	return c
}

func TestEnvRoundTrip(t *testing.T) {
	ctx := context.Background()
	impl := &still{
		settings: []plugins.Setting{
			{Name: "k", Default: int64(3), Doc: "k"},
			{Name: "names", Default: []string{"x"}},
		},
		tasks: []env.Task{
			{
				ID:          "a",
				Suite:       "s",
				Instruction: "do",
				StartStates: 2,
				MaxSteps:    9,
				Tags:        map[string]string{"level": "L1"},
			},
			{ID: "b", Unavailable: "no assets"},
		},
	}
	c := openEnv(t, impl)
	require.Equal(t, int64(3), impl.got.Settings["k"], "defaults are filled in")
	info, err := c.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, impl.settings, info.Settings)
	var got []env.Task
	for task, err := range c.Tasks(ctx) {
		require.NoError(t, err)
		got = append(got, task)
	}
	require.Equal(t, impl.tasks, got)
	tr, err := c.Step(
		ctx,
		env.Step{
			Actions: plugins.Floats([]float32{5, 0, 5, 0}, 2, 2),
			Render:  env.Render{Observe: []string{"main"}, Record: "main", RecordEvery: 1},
		},
	)
	require.NoError(t, err)
	want := impl.frame(2, 5)
	want.StepsDone, want.EpisodeSteps = 2, 2
	require.Equal(t, want, tr)
}

func TestErrorsKeepTheirParts(t *testing.T) {
	c := openEnv(t, &still{})
	_, err := c.Reset(context.Background(), env.Reset{Task: "zz", StartState: 1})
	e := plugins.AsError(err)
	require.Equal(t, plugins.NotFound, e.Kind)
	require.Equal(t, `no task "zz"`, e.Message)
	require.Equal(t, "task zz, start state 1", e.Place)
	require.Equal(t, "there is a", e.Hint)
	require.Equal(t, "more", e.Detail)
}

func TestPanicCostsOneCall(t *testing.T) {
	impl := &still{}
	c := openEnv(t, impl)
	impl.step = func(env.Step) (env.Transition, error) { panic("oh") }
	_, err := c.Step(context.Background(), env.Step{Actions: plugins.Floats([]float32{0, 0}, 1, 2)})
	require.Equal(t, plugins.Internal, plugins.KindOf(err))
	require.ErrorContains(t, err, "panic: oh")
	impl.step = nil
	_, err = c.Step(context.Background(), env.Step{Actions: plugins.Floats([]float32{0, 0}, 1, 2)})
	require.NoError(t, err)
}

func TestBadRepliesAreRefused(t *testing.T) {
	nan, two := math.NaN(), 2.0
	good := (&still{}).frame(1, 1)
	for name, bad := range map[string]func(*env.Transition){
		"success without terminated": func(tr *env.Transition) { tr.Success = true },
		"progress NaN":               func(tr *env.Transition) { tr.Progress = &nan },
		"progress 2":                 func(tr *env.Transition) { tr.Progress = &two },
		"camera missing":             func(tr *env.Transition) { tr.Observation.Images = nil },
		"image of floats": func(tr *env.Transition) {
			tr.Observation.Images = map[string]plugins.Tensor{"main": plugins.Floats([]float32{1, 2, 3}, 1, 1, 3)}
		},
		"NaN proprio": func(tr *env.Transition) { tr.Observation.Proprio = plugins.Floats([]float32{float32(nan)}) },
		"actions shape": func(tr *env.Transition) {
			tr.StepsDone, tr.Actions = 1, plugins.Floats([]float32{1, 2, 3, 4}, 2, 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			impl := &still{}
			c := openEnv(t, impl)
			impl.step = func(env.Step) (env.Transition, error) { tr := good; bad(&tr); return tr, nil }
			_, err := c.Step(
				context.Background(),
				env.Step{
					Actions: plugins.Floats([]float32{0, 0}, 1, 2),
					Render:  env.Render{Observe: []string{"main"}},
				},
			)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "%v", err)
		})
	}
}

func TestTaskListsAreChecked(t *testing.T) {
	for name, tasks := range map[string][]env.Task{
		"no id": {{}}, "twice": {{ID: "a", StartStates: 1, MaxSteps: 1}, {ID: "a", StartStates: 1, MaxSteps: 1}},
		"no steps": {{ID: "a", StartStates: 1}},
	} {
		c := openEnv(t, &still{tasks: tasks})
		var last error
		for _, err := range c.Tasks(context.Background()) {
			last = err
		}
		require.Equal(t, plugins.Corrupt, plugins.KindOf(last), name)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	c := env.NewClient(connect(t, func(s grpc.ServiceRegistrar) {
		env.Register(s, &still{settings: []plugins.Setting{{Name: "lr", Default: 0.1, Min: plugins.Bound(0)}}})
	}), nil)
	for _, given := range []plugins.Settings{{"lr": "fast"}, {"lr": -1.0}, {"rl": 0.1}} {
		err := c.Configure(context.Background(), plugins.Config{Settings: given, Lanes: 1})
		require.Equal(t, plugins.Invalid, plugins.KindOf(err), "%v", given)
	}
	require.Equal(t, plugins.Invalid, plugins.KindOf(c.Configure(context.Background(), plugins.Config{Lanes: 5})),
		"more lanes than the process holds")
}

// meanEncoder returns the mean byte, or NaN for a black clip.
type meanEncoder struct{ plugins.Plugin }

func (meanEncoder) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "mean", Version: "1"}, nil
}
func (meanEncoder) Configure(context.Context, plugins.Config) error { return nil }
func (meanEncoder) Describe(context.Context) (encoder.Spec, error) {
	return encoder.Spec{Dimension: 2}, nil
}
func (meanEncoder) Encode(_ context.Context, clips []plugins.Tensor) ([][]float32, error) {
	var out [][]float32
	for _, c := range clips {
		sum := 0
		for _, b := range c.Data {
			sum += int(b)
		}
		if sum == 0 {
			out = append(out, nil)
			continue
		}
		out = append(out, []float32{float32(sum) / float32(len(c.Data)), float32(c.Shape[0])})
	}
	return out, nil
}

func TestEncoderRoundTripAndWindows(t *testing.T) {
	ctx := context.Background()
	c := encoder.NewClient(connect(t, func(s grpc.ServiceRegistrar) { encoder.Register(s, meanEncoder{}) }), nil)
	require.NoError(t, c.Configure(ctx, plugins.Config{}))
	clip := make([]byte, 3*40*40*3)
	for i := range clip {
		clip[i] = byte(1 + i/(40*40*3))
	}
	got, err := c.Encode(ctx,
		[]plugins.Tensor{plugins.Bytes(clip, 3, 40, 40, 3), plugins.Bytes(make([]byte, 3), 1, 1, 1, 3)})
	require.NoError(t, err)
	require.Equal(t, []float32{2, 3}, got[0])
	require.True(t, math.IsNaN(float64(got[1][0])), "an unusable clip is a row of NaN")
	got, err = c.EncodeWindows(ctx, plugins.Bytes(clip, 3, 40, 40, 3), []int{1, 3})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{1, 1}, {2, 3}}, got)
	_, err = c.EncodeWindows(ctx, plugins.Bytes(clip, 3, 40, 40, 3), []int{4})
	require.Equal(t, plugins.Invalid, plugins.KindOf(err))
}

// slowEncoder reports progress when the test signals it, and then returns.
type slowEncoder struct {
	meanEncoder
	started, proceed, reported chan struct{}
}

func (s slowEncoder) Encode(ctx context.Context, clips []plugins.Tensor) ([][]float32, error) {
	close(s.started)
	<-s.proceed
	encoder.ReportProgress(ctx)
	close(s.reported)
	<-s.proceed
	return s.meanEncoder.Encode(ctx, clips)
}

// TestEncoderReportProgress checks that the progress that an encoder reports reaches the host, which restarts its
// deadline.
func TestEncoderReportProgress(t *testing.T) {
	encoder.ReportProgress(t.Context()) // outside a call it does nothing
	ctx := t.Context()
	e := slowEncoder{started: make(chan struct{}), proceed: make(chan struct{}), reported: make(chan struct{})}
	c := encoder.NewClient(connect(t, func(s grpc.ServiceRegistrar) { encoder.Register(s, e) }), nil)
	require.NoError(t, c.Configure(ctx, plugins.Config{}))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Encode(ctx, []plugins.Tensor{plugins.Bytes(make([]byte, 3), 1, 1, 1, 3)})
		ended <- err
	}()
	<-e.started
	began := time.Now()
	require.Eventually(t,
		func() bool { h, err := c.Health(ctx); return err == nil && h.SinceProgress >= 20*time.Millisecond },
		10*time.Second, time.Millisecond)
	waited := time.Since(began)
	now := time.Now()
	e.proceed <- struct{}{}
	<-e.reported
	h, err := c.Health(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"Encode 1 clips"}, h.Busy)
	require.LessOrEqual(t, h.SinceProgress, time.Since(now),
		"measured from the last progress report, not from the start of the call %v earlier", waited)
	close(e.proceed)
	require.NoError(t, <-ended)
}

// echoPolicy returns the proprio as actions and counts the demonstrations.
type echoPolicy struct {
	demos   int
	weights []float32
}

func (*echoPolicy) Info(context.Context) (plugins.Info, error) {
	return plugins.Info{Name: "echo", Version: "1"}, nil
}
func (*echoPolicy) Configure(context.Context, plugins.Config) error { return nil }
func (*echoPolicy) Describe(context.Context) (policy.Spec, error) {
	return policy.Spec{Chunk: 2, CanImitate: true, Trainable: true}, nil
}
func (*echoPolicy) Act(_ context.Context, a policy.Act) ([]policy.Result, error) {
	var out []policy.Result
	for _, it := range a.Items {
		p := it.Observation.Proprio.Float32s()[0]
		out = append(
			out,
			policy.Result{
				Actions:  plugins.Floats([]float32{p, p, p, p}, 2, 2),
				LogProbs: []float32{-1, float32(it.Observation.Images["main"].Data[9])},
			},
		)
	}
	return out, nil
}
func (*echoPolicy) Update(_ context.Context, u policy.Update, progress func(float64)) (policy.Statistics, error) {
	progress(0.5)
	return policy.Statistics{
		Loss:           u.Trajectories[0].Values[0],
		Samples:        4,
		Extra:          map[string]float64{"x": 1},
		AlreadyApplied: u.ID == 1,
	}, nil
}
func (*echoPolicy) Forget(context.Context, []string) error           { return nil }
func (*echoPolicy) Save(context.Context, string) error               { return nil }
func (*echoPolicy) Load(context.Context, string) (uint64, error)     { return 42, nil }
func (*echoPolicy) BeginRun(context.Context, string) (uint64, error) { return 43, nil }

func (p *echoPolicy) Imitate(_ context.Context, im policy.Imitate, demos iter.Seq2[policy.Demonstration, error],
	progress func(done, loss float64)) error {
	for d, err := range demos {
		if err != nil {
			return err
		}
		p.demos++
		p.weights = d.Weights
		progress(0.1, 3)
	}
	return nil
}

func TestPolicyRoundTrip(t *testing.T) {
	ctx := context.Background()
	impl := &echoPolicy{}
	c := policy.NewClient(connect(t, func(s grpc.ServiceRegistrar) { policy.Register(s, impl) }), nil)
	require.NoError(t, c.Configure(ctx, plugins.Config{}))
	img := make([]byte, 64*64*3)
	img[9] = 9
	got, err := c.Act(
		ctx,
		policy.Act{
			Items: []policy.Item{
				{Trajectory: "t", Observation: env.Observation{Proprio: plugins.Floats([]float32{0.5}),
					Images: map[string]plugins.Tensor{"main": plugins.Bytes(img, 64, 64, 3)}}},
			},
		},
	)
	require.NoError(t, err)
	require.Equal(t, []float32{0.5, 0.5, 0.5, 0.5}, got[0].Actions.Float32s())
	require.Equal(t, []float32{-1, 9}, got[0].LogProbs)
	var shares []float64
	st, err := c.Update(ctx,
		policy.Update{ID: 1, Trajectories: []policy.Advantage{{Trajectory: "t", Values: []float64{1.5}}}},
		func(f float64) { shares = append(shares, f) })
	require.NoError(t, err)
	require.Equal(t,
		policy.Statistics{Loss: 1.5, Samples: 4, Extra: map[string]float64{"x": 1}, AlreadyApplied: true}, st)
	require.Equal(t, []float64{0.5}, shares)
	id, err := c.Load(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, uint64(42), id)
	id, err = c.BeginRun(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, uint64(43), id)
	older := policy.NewClient(
		connect(t, func(s grpc.ServiceRegistrar) { policy.Register(s, struct{ policy.Policy }{impl}) }), nil)
	require.NoError(t, older.Configure(ctx, plugins.Config{}))
	id, err = older.BeginRun(ctx, "x")
	require.NoError(t, err)
	require.Equal(t, uint64(42), id, "one that cannot restores all")

	demo := policy.Demonstration{
		ID:      "d",
		Actions: plugins.Floats([]float32{1, 2}, 1, 2),
		Images:  map[string]plugins.Tensor{"main": plugins.Bytes(img, 1, 64, 64, 3)},
	}
	demos := func(yield func(policy.Demonstration, error) bool) {
		for range 2 {
			if !yield(demo, nil) {
				return
			}
		}
	}
	require.NoError(t, c.Imitate(ctx, policy.Imitate{}, demos, nil))
	require.Equal(t, 2, impl.demos)
	require.Nil(t, impl.weights)
	demo.Weights = []float32{2.5}
	require.NoError(t, c.Imitate(ctx, policy.Imitate{}, demos, nil))
	require.Equal(t, []float32{2.5}, impl.weights)
	for _, bad := range [][]float32{{1, 2}, {-1}, {float32(math.NaN())}, {float32(math.Inf(1))}} {
		demo.Weights = bad
		require.Error(t, c.Imitate(ctx, policy.Imitate{}, demos, nil), "weights %v", bad)
	}
	demo.Weights = nil
	broken := errors.New("no expert")
	err = c.Imitate(ctx, policy.Imitate{}, func(yield func(policy.Demonstration, error) bool) { yield(demo, broken) },
		nil)
	require.ErrorIs(t, err, broken, "the caller's own error comes back")
	demo.Images["main"] = plugins.Bytes(img[:3], 1, 1, 1, 3)
	demo.Actions = plugins.Floats([]float32{1, 2, 3, 4}, 2, 2)
	err = c.Imitate(ctx, policy.Imitate{}, func(yield func(policy.Demonstration, error) bool) { yield(demo, nil) },
		nil)
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err), "one image for two actions")
}
