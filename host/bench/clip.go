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

// ClipOptions say how a clip's way is measured.
type ClipOptions struct {
	// Frames and Side of the clip; default 64 and 256, 12.6 MB.
	Frames, Side int
	// Repeats of each case, in alternation; default 60.
	Repeats int
}

// route is one way of a tensor between two processes: call sends it once.
type route struct {
	cells []string
	key   string
	// messages says that tensors go inside messages.
	messages bool
	call     func(ctx context.Context) error
	ms       []float64
}

// Clip measures how long a clip takes to an encoder that does nothing and its answer back, and a frame from
// an env that does nothing.
func Clip(ctx context.Context, t Tools, o ClipOptions) (Section, error) {
	if o.Frames == 0 {
		o.Frames = 64
	}
	if o.Side == 0 {
		o.Side = 256
	}
	if o.Repeats == 0 {
		o.Repeats = 60
	}
	mb := float64(o.Frames*o.Side*o.Side*3) / 1e6
	s := Section{Name: "clip", Title: "A clip to an encoder, a frame from an env",
		Text: fmt.Sprintf("Milliseconds from the host's call to its answer, %d calls of each case, those of one way "+
			"in alternation: a run uses one. "+
			"Shared memory: the arena; the host's copy of the clip into it is counted. Messages: bytes inside gRPC "+
			"messages, what `arena = \"off\"` does. \"Read\": the plugin also looks at "+
			"every byte, which a real encoder does.", o.Repeats)}
	return s, measured(&s, func() error {
		routes, end, err := clipRoutes(ctx, t, o)
		defer end()
		if err != nil {
			return err
		}
		// Messages of 12.6 MB leave the host garbage, whose collection would be counted as part of the
		// other way's next call.
		for _, messages := range []bool{false, true} {
			way := slices.DeleteFunc(slices.Clone(routes), func(r *route) bool { return r.messages != messages })
			runtime.GC()
			if err := alternate(ctx, way, o.Repeats); err != nil {
				return err
			}
		}
		s.Tables = append(s.Tables, routeTable(fmt.Sprintf("A clip of %d frames of %d x %d, %.1f MB, host to "+
			"plugin.", o.Frames, o.Side, o.Side, mb), []string{"plugin", "way"}, routes))
		frames, endFrames, err := frameRoutes(ctx, t, o)
		defer endFrames()
		if err != nil {
			return err
		}
		theirs, err := gymnasiumFrames(ctx, t, o, frames)
		if err != nil {
			return err
		}
		frames = append(frames, theirs...)
		s.Tables = append(s.Tables, routeTable(fmt.Sprintf("One frame of %d x %d, %.2f MB: a Step of one action, "+
			"and the frame back. gymnasium: the mean of a step of `AsyncVectorEnv` with one lane.", o.Side, o.Side,
			mb/float64(o.Frames)), []string{"plugin", "way"}, frames))
		return nil
	})
}

// gymnasiumFrames calls the routes in turn, and between them gymnasium's vector environment, which is timed
// in its own process.
func gymnasiumFrames(ctx context.Context, t Tools, o ClipOptions, routes []*route) ([]*route, error) {
	const rounds = 9
	if t.Python.Argv == nil {
		return nil, alternate(ctx, routes, 10*o.Repeats)
	}
	vector, err := talk(t.script("vector.py"))
	if err != nil {
		return nil, err
	}
	defer vector.close()
	theirs := &route{cells: []string{"gymnasium", "shared memory"}, key: "frame_gymnasium"}
	for range rounds {
		var answer struct{ Us float64 }
		if err := vector.ask(ctx, map[string]any{"lanes": 1, "frame": o.Side, "seconds": 0.1}, &answer); err != nil {
			return nil, err
		}
		theirs.ms = append(theirs.ms, answer.Us/1e3)
		if err := alternate(ctx, routes, (10*o.Repeats+rounds-1)/rounds); err != nil {
			return nil, err
		}
	}
	return []*route{theirs}, nil
}

// alternate calls every route in turn.
func alternate(ctx context.Context, routes []*route, repeats int) error {
	for i := range repeats + 5 {
		for _, r := range routes {
			began := time.Now()
			if err := r.call(ctx); err != nil {
				return plugins.AsError(err).WithPlace("%s", strings.Join(r.cells, ", "))
			}
			if i >= 5 { // the first ones touch fresh memory
				r.ms = append(r.ms, time.Since(began).Seconds()*1e3)
			}
		}
	}
	return nil
}

func routeTable(title string, columns []string, routes []*route) Table {
	table := Table{Title: title, Columns: append(columns, "median ms", "10 % ms", "90 % ms")}
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

// clipRoutes starts the encoders. end stops what was started, also after an error.
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
	clip := plugins.Bytes(pixels, o.Frames, o.Side, o.Side, 3)
	// What the arena's way cannot be faster than, on this machine and at its present load.
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
	for _, side := range t.sides(t.Encoder, "encoder.py") {
		for _, way := range ways(t.ArenaMB) {
			super, err := supervise.New(supervise.Options{StartTimeout: startTimeout, ArenaBytes: way.mb << 20})
			if err != nil {
				return nil, end, err
			}
			closers = append(closers, super.Close)
			for i, read := range []bool{false, true} {
				l := side.launch
				l.Kind, l.Instance = plugins.Encoder, fmt.Sprint(i+1)
				w := supervise.NewEncoder(super, l, func(ctx context.Context, e encoder.Encoder) error {
					return e.Configure(ctx, plugins.Config{Settings: plugins.Settings{"read": read}, WorldSize: 1})
				})
				e, _, err := w.Client(ctx)
				if err != nil {
					return nil, end, err
				}
				r := &route{cells: []string{side.name, way.name}, key: side.key + "_" + way.key,
					messages: way.mb == 0, call: func(ctx context.Context) error {
						v, err := e.Encode(ctx, []plugins.Tensor{clip})
						if err == nil && read && v[0][0] != 255 {
							err = plugins.Errorf(plugins.Corrupt, "the plugin saw %v as the largest value, not 255",
								v[0][0])
						}
						return err
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

type side struct {
	name, key string
	launch    supervise.Launch
}

// sides are the languages to measure: Go, and Python where its environment is there.
func (t Tools) sides(program supervise.Launch, script string) []side {
	s := []side{{"Go", "go", program}}
	if t.Python.Argv != nil {
		s = append([]side{{"Python", "python", t.script(script)}}, s...)
	}
	return s
}

type arenaWay struct {
	name, key string
	mb        int
}

func ways(mb int) []arenaWay {
	return []arenaWay{{"shared memory", "arena", mb}, {"messages", "messages", 0}}
}

func frameRoutes(ctx context.Context, t Tools, o ClipOptions) (routes []*route, end func(), err error) {
	var ends []func()
	end = func() {
		for _, f := range ends {
			f()
		}
	}
	action := plugins.Floats(make([]float32, actionDim), 1, actionDim)
	for _, side := range t.sides(t.Env, "env.py") {
		for _, way := range ways(t.ArenaMB) {
			super, err := supervise.New(supervise.Options{StartTimeout: startTimeout, ArenaBytes: way.mb << 20})
			if err != nil {
				return nil, end, err
			}
			ends = append(ends, super.Close)
			l := side.launch
			l.Kind = plugins.Env
			c := plugins.Config{WorldSize: 1, Lanes: 1, Cameras: []plugins.CameraRequest{{Name: "main",
				Height: o.Side, Width: o.Side}}}
			if side.key == "go" {
				c.Settings = plugins.Settings{"frame": int64(o.Side)}
			}
			w := supervise.NewEnv(super, l, func(ctx context.Context, e env.Env) error { return e.Configure(ctx, c) })
			e, _, err := w.Client(ctx)
			if err != nil {
				return nil, end, err
			}
			render := env.Render{Observe: []string{"main"}}
			if _, err := e.Reset(ctx, env.Reset{Task: Name, Render: render}); err != nil {
				return nil, end, err
			}
			want := o.Side * o.Side * 3
			routes = append(routes, &route{cells: []string{side.name, way.name}, key: "frame_" + side.key + "_" +
				way.key, call: func(ctx context.Context) error {
				tr, err := e.Step(ctx, env.Step{Actions: action, Render: render})
				if err == nil && len(tr.Observation.Images["main"].Data) != want {
					err = plugins.Errorf(plugins.Corrupt, "a frame of %d bytes, want %d",
						len(tr.Observation.Images["main"].Data), want)
				}
				return err
			}})
		}
	}
	return routes, end, nil
}
