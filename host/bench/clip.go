package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/srpo-dev/srpo/host/supervise"
	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
)

// ClipOptions are the settings of [Clip].
type ClipOptions struct {
	// Frames and Side are the length of the clip in frames and the side of a frame in pixels; default 64
	// and 256, 12.6 MB.
	Frames, Side int
	// Repeats is the number of calls of each case; default 60.
	Repeats int
}

// route is one way to send a tensor between two processes. call sends it once.
type route struct {
	cells []string
	key   string
	// messages reports that tensors are sent inside messages.
	messages bool
	call     func(ctx context.Context) error
	ms       []float64
}

// Clip measures how long it takes to send a clip to an idle encoder and to receive the reply, and to
// receive a frame from an idle env.
func Clip(ctx context.Context, t Tools, o ClipOptions) (Section, error) {
	orDefault(&o.Frames, 64)
	orDefault(&o.Side, 256)
	orDefault(&o.Repeats, 60)
	s := Section{Name: "clip", Title: "A clip to an encoder, a frame from an env",
		Text: fmt.Sprintf("Milliseconds from the host's call to the reply, %d calls of each case. Cases with the "+
			"same transport alternate. Shared memory: the arena, with the host's copy of the clip into it. "+
			"Messages: bytes inside gRPC messages, as with `arena = \"off\"`. Read: the plugin also reads every "+
			"byte, as a real encoder does.", o.Repeats)}
	return s, measured(&s, func() error {
		clips, err := clipTable(ctx, t, o)
		if err != nil {
			return err
		}
		s.Tables = append(s.Tables, clips)
		frames, err := frameTable(ctx, t, o)
		if err != nil {
			return err
		}
		s.Tables = append(s.Tables, frames)
		return nil
	})
}

func clipTable(ctx context.Context, t Tools, o ClipOptions) (Table, error) {
	routes, end, err := clipRoutes(ctx, t, o)
	defer end()
	if err != nil {
		return Table{}, err
	}
	// Messages of 12.6 MB leave garbage in the host. Collecting it must not count as time of the other
	// transport.
	for _, messages := range []bool{false, true} {
		same := slices.DeleteFunc(slices.Clone(routes), func(r *route) bool { return r.messages != messages })
		runtime.GC()
		if err := alternate(ctx, same, o.Repeats); err != nil {
			return Table{}, err
		}
	}
	return routeTable(fmt.Sprintf("A clip of %d frames of %d x %d, %.1f MB, host to plugin.", o.Frames, o.Side,
		o.Side,
		float64(o.Frames*o.Side*o.Side*3)/1e6), routes), nil
}

func frameTable(ctx context.Context, t Tools, o ClipOptions) (Table, error) {
	routes, end, err := frameRoutes(ctx, t, o)
	defer end()
	if err != nil {
		return Table{}, err
	}
	gymnasium, err := gymnasiumFrames(ctx, t, o, routes)
	if err != nil {
		return Table{}, err
	}
	return routeTable(fmt.Sprintf("One frame of %d x %d, %.2f MB: a Step of one action and the frame that it "+
		"returns. gymnasium: the mean of a step of `AsyncVectorEnv` with one lane.", o.Side, o.Side,
		float64(o.Side*o.Side*3)/1e6), append(routes, gymnasium...)), nil
}

// gymnasiumFrames calls the routes in alternation with gymnasium's vector environment, which measures
// itself, and returns the route of gymnasium; none without Python.
func gymnasiumFrames(ctx context.Context, t Tools, o ClipOptions, routes []*route) ([]*route, error) {
	const rounds = 9
	if t.Python.Argv == nil {
		return nil, alternate(ctx, routes, 10*o.Repeats)
	}
	vector, err := startProgram(t.script("vector.py"))
	if err != nil {
		return nil, err
	}
	defer vector.close()
	gymnasium := &route{cells: []string{"gymnasium", "shared memory"}, key: "frame_gymnasium"}
	for range rounds {
		us, _, err := vectorStep(ctx, vector, 1, o.Side, 0.1)
		if err != nil {
			return nil, err
		}
		gymnasium.ms = append(gymnasium.ms, us/1e3)
		if err := alternate(ctx, routes, (10*o.Repeats+rounds-1)/rounds); err != nil {
			return nil, err
		}
	}
	return []*route{gymnasium}, nil
}

// alternate calls the routes in turn. The first five rounds are not recorded.
func alternate(ctx context.Context, routes []*route, repeats int) error {
	for i := range repeats + 5 {
		for _, r := range routes {
			began := time.Now()
			if err := r.call(ctx); err != nil {
				return plugins.AsError(err).WithPlace("%s", strings.Join(r.cells, ", "))
			}
			if i >= 5 { // the first calls allocate memory
				r.ms = append(r.ms, time.Since(began).Seconds()*1e3)
			}
		}
	}
	return nil
}

func routeTable(title string, routes []*route) Table {
	table := Table{Title: title, Columns: []string{"plugin", "transport", "median ms", "10 % ms", "90 % ms"}}
	for _, r := range routes {
		row := Row{Cells: append([]string(nil), r.cells...), Values: map[string]float64{}}
		for _, q := range []struct {
			name string
			q    float64
		}{{"median", 0.5}, {"p10", 0.1}, {"p90", 0.9}} {
			v := quantile(r.ms, q.q)
			row.Values[r.key+"_"+q.name+"_ms"] = v
			row.Cells = append(row.Cells, number(v))
		}
		table.Rows = append(table.Rows, row)
	}
	return table
}

// clipRoutes starts encoders for all languages and transports. end stops them, also after an error.
func clipRoutes(ctx context.Context, t Tools, o ClipOptions) (routes []*route, end func(), err error) {
	var closers []func()
	end = func() {
		for _, f := range closers {
			f()
		}
	}
	pixels := make([]byte, o.Frames*o.Side*o.Side*3)
	for i := range pixels {
		pixels[i] = byte(i*31 + i>>8)
	}
	// The copy alone is a lower bound of the time through shared memory.
	memory, err := arena.New(2 * len(pixels))
	if err != nil {
		return nil, end, err
	}
	closers = append(closers, func() { _ = memory.Close() })
	routes = append(routes, &route{cells: []string{"none", "the copy into shared memory alone"}, key: "copy",
		call: func(context.Context) error {
			slot, err := memory.Grant(len(pixels))
			if err != nil {
				return err
			}
			defer slot.Release()
			return slot.Write(0, pixels)
		}})
	clip := plugins.Bytes(pixels, o.Frames, o.Side, o.Side, 3)
	for _, language := range t.languages(t.Encoder, "encoder.py") {
		for _, transport := range transports(t.ArenaMB) {
			super, err := supervise.New(supervise.Options{StartTimeout: startTimeout, ArenaBytes: transport.mb << 20})
			if err != nil {
				return nil, end, err
			}
			closers = append(closers, super.Close)
			for i, read := range []bool{false, true} {
				l := language.launch
				l.Kind, l.Instance = plugins.Encoder, fmt.Sprint(i+1)
				e, err := startEncoder(ctx, super, l, plugins.Settings{"read": read})
				if err != nil {
					return nil, end, err
				}
				r := &route{cells: []string{language.name, transport.name}, key: language.key + "_" + transport.key,
					messages: transport.mb == 0, call: func(ctx context.Context) error {
						return sendClip(ctx, e,
							clip, read)
					}}
				if read {
					r.cells[1] += ", read"
					r.key += "_read"
				}
				routes = append(routes, r)
			}
		}
	}
	return routes, end, nil
}

func startEncoder(ctx context.Context, super *supervise.Supervisor, l supervise.Launch,
	settings plugins.Settings) (encoder.Encoder, error) {
	w := supervise.NewEncoder(super, l, func(ctx context.Context, e encoder.Encoder) error {
		return e.Configure(ctx, plugins.Config{Settings: settings, WorldSize: 1})
	})
	e, _, err := w.Client(ctx)
	return e, err
}

// sendClip encodes a clip. An idle encoder that reads every byte returns the largest one.
func sendClip(ctx context.Context, e encoder.Encoder, clip plugins.Tensor, read bool) error {
	v, err := e.Encode(ctx, []plugins.Tensor{clip})
	if err == nil && read && v[0][0] != 255 {
		err = plugins.Errorf(plugins.Corrupt, "the plugin returned %v as the largest byte, not 255", v[0][0])
	}
	return err
}

type language struct {
	name, key string
	launch    supervise.Launch
}

// languages returns the idle plugin in Go, and in Python if its environment is installed.
func (t Tools) languages(program supervise.Launch, script string) []language {
	if t.Python.Argv == nil {
		return []language{{"Go", "go", program}}
	}
	return []language{{"Python", "python", t.script(script)}, {"Go", "go", program}}
}

type transport struct {
	name, key string
	mb        int
}

func transports(mb int) []transport {
	return []transport{{"shared memory", "arena", mb}, {"messages", "messages", 0}}
}

// frameRoutes starts envs for all languages and transports. end stops them, also after an error.
func frameRoutes(ctx context.Context, t Tools, o ClipOptions) (routes []*route, end func(), err error) {
	var closers []func()
	end = func() {
		for _, f := range closers {
			f()
		}
	}
	for _, language := range t.languages(t.Env, "env.py") {
		for _, transport := range transports(t.ArenaMB) {
			super, err := supervise.New(supervise.Options{StartTimeout: startTimeout, ArenaBytes: transport.mb << 20})
			if err != nil {
				return nil, end, err
			}
			closers = append(closers, super.Close)
			e, err := startFrameEnv(ctx, super, language, o.Side)
			if err != nil {
				return nil, end, err
			}
			routes = append(routes, &route{cells: []string{language.name, transport.name},
				key:  "frame_" + language.key + "_" + transport.key,
				call: func(ctx context.Context) error { return receiveFrame(ctx, e, o.Side) }})
		}
	}
	return routes, end, nil
}

// renderMain requests a frame at the end of each Step.
var renderMain = env.Render{Observe: []string{"main"}}

func startFrameEnv(ctx context.Context, super *supervise.Supervisor, from language, side int) (env.Env, error) {
	l := from.launch
	l.Kind = plugins.Env
	c := plugins.Config{WorldSize: 1, Lanes: 1, Cameras: []plugins.CameraRequest{{Name: "main", Height: side,
		Width: side}}}
	if from.key == "go" {
		c.Settings = plugins.Settings{"frame": int64(side)}
	}
	w := supervise.NewEnv(super, l, func(ctx context.Context, e env.Env) error { return e.Configure(ctx, c) })
	e, _, err := w.Client(ctx)
	if err != nil {
		return nil, err
	}
	_, err = e.Reset(ctx, env.Reset{Task: Name, Render: renderMain})
	return e, err
}

// receiveFrame executes one action and checks the size of the returned frame.
func receiveFrame(ctx context.Context, e env.Env, side int) error {
	action := plugins.Floats(make([]float32, actionDim), 1, actionDim)
	tr, err := e.Step(ctx, env.Step{Actions: action, Render: renderMain})
	if n := len(tr.Observation.Images["main"].Data); err == nil && n != side*side*3 {
		err = plugins.Errorf(plugins.Corrupt, "a frame of %d bytes, want %d", n, side*side*3)
	}
	return err
}
