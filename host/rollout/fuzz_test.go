package rollout

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// fuzzTensor returns a tensor that the wire accepts: the length of its data matches its shape.
func fuzzTensor(data []byte, dtype byte, shape ...uint8) plugins.Tensor {
	t := plugins.Tensor{DType: plugins.DType(dtype % 5), Data: []byte{}}
	for _, d := range shape {
		t.Shape = append(t.Shape, int(d)%9)
	}
	if t.DType.Size() == 0 {
		return plugins.Tensor{}
	}
	t.Data = make([]byte, plugins.Elements(t.Shape)*t.DType.Size())
	copy(t.Data, data)
	return t
}

func corruptOnly(t *testing.T, err error) {
	t.Helper()
	if e := plugins.AsError(err); e.Kind != plugins.Corrupt && e.Kind != plugins.Diverged || e.Message == "" ||
		e.Hint == "" {
		t.Fatalf("kind %v, hint %q: %v", e.Kind, e.Hint, err)
	}
}

// FuzzReply checks an env's reply to a chunk of 3 actions after 3 steps: a reply that passes has the properties
// that the rest of the host relies on.
func FuzzReply(f *testing.F) {
	f.Add(3, 6, byte(0), 0.5, []byte{1, 2}, byte(1), uint8(4), uint8(4), uint8(3),
		[]byte{0, 0, 0, 0, 0, 0, 0x80, 0x3f}, uint8(2), uint8(2))
	f.Add(2, 5, byte(3), math.NaN(), []byte{}, byte(2), uint8(0), uint8(4), uint8(3), []byte{0, 0, 0xc0, 0x7f},
		uint8(2), uint8(1))
	f.Add(1, 4, byte(4), 1.0, []byte{}, byte(1), uint8(4), uint8(4), uint8(3), []byte{}, uint8(2), uint8(0))
	f.Fuzz(
		func(t *testing.T, done, steps int, flags byte, progress float64,
			image []byte, dtype byte, h, w, c uint8, proprio []byte, n, frames uint8) {
			r := env.Transition{
				StepsDone:    done,
				EpisodeSteps: steps,
				Success:      flags&1 != 0,
				Terminated:   flags&2 != 0,
				Truncated:    flags&4 != 0,
				Progress:     &progress,
				Observation: env.Observation{
					Images:  map[string]plugins.Tensor{"front": fuzzTensor(image, dtype, h, w, c)},
					Proprio: fuzzTensor(proprio, 2, n),
				},
				Recorded: fuzzTensor(image, dtype, frames, h, w, c),
			}
			checker := replyChecker{
				spec:     fakeSpec,
				render:   env.Render{Observe: []string{"front"}, Record: "front", RecordEvery: 2},
				maxSteps: 9,
				shapes:   &shapes{},
			}
			if err := checker.step(r, 3, 3); err != nil {
				corruptOnly(t, err)
				return
			}
			require.Equal(t, 3+r.StepsDone, r.EpisodeSteps)
			require.True(t, r.StepsDone == 3 || r.Done())
			require.False(t, math.IsNaN(progress))
			if !r.Done() {
				require.NotEmpty(t, r.Observation.Images["front"].Data)
				require.Equal(t, -1, notFinite(r.Observation.Proprio.Data))
			}
			if n := checker.render.Frames(3, r.StepsDone); n > 0 {
				require.Equal(t, n, r.Recorded.Shape[0])
			}
		},
	)
}

// FuzzChunk checks a policy's result: one that passes is inside of the action space.
func FuzzChunk(f *testing.F) {
	f.Add(plugins.Floats([]float32{0, 0.5, 1, -1, 0, 1.0000005}, 6).Data, uint8(3), uint8(2),
		plugins.Floats([]float32{-1, -2, -3}, 3).Data)
	f.Add(plugins.Floats([]float32{0, float32(math.NaN())}, 2).Data, uint8(3), uint8(2), []byte{})
	f.Add([]byte{}, uint8(0), uint8(2), plugins.Floats([]float32{float32(math.Inf(-1))}, 1).Data)
	f.Fuzz(func(t *testing.T, actions []byte, n, dim uint8, logProbs []byte) {
		s := &Scheduler{EnvSpec: fakeSpec}
		r := policy.Result{Actions: fuzzTensor(actions, 2, n, dim)}
		for i := 0; i+4 <= len(logProbs) && i < 64; i += 4 {
			r.LogProbs = append(r.LogProbs, math.Float32frombits(binary.LittleEndian.Uint32(logProbs[i:])))
		}
		c, err := s.checkActions(r, Rules{Record: true})
		if err != nil {
			corruptOnly(t, err)
			return
		}
		require.Len(t, c.logProbs, c.n)
		for _, a := range c.actions {
			require.True(t, a >= -1 && a <= 1)
		}
		for _, p := range c.logProbs {
			require.False(t, math.IsNaN(float64(p)) || math.IsInf(float64(p), 0))
		}
	})
}
