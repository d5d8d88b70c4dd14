package plugins_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// answers is a connection to a plugin that replies to each call with the given bytes. A stream sends them as
// messages, one after the other.
type answers struct {
	unary  map[string][]byte // by method, "" for all others
	stream [][]byte
	fail   metadata.MD // trailer of calls that fail
}

func (a *answers) Invoke(_ context.Context, method string, _, reply any, opts ...grpc.CallOption) error {
	if a.fail != nil {
		for _, o := range opts {
			if t, ok := o.(grpc.TrailerCallOption); ok {
				*t.TrailerAddr = a.fail
			}
		}
		return status.Error(codes.Code(len(a.unary[""])%17), string(a.unary[""]))
	}
	data, ok := a.unary[method]
	if !ok {
		data = a.unary[""]
	}
	return decode(data, reply)
}

// decode unmarshals a message as gRPC does.
func decode(data []byte, reply any) error {
	if err := proto.Unmarshal(data, reply.(proto.Message)); err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

func (a *answers) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string,
	_ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &answerStream{a: a, ctx: ctx}, nil
}

type answerStream struct {
	grpc.ClientStream
	a   *answers
	ctx context.Context
	n   int
}

func (s *answerStream) Context() context.Context { return s.ctx }
func (s *answerStream) Trailer() metadata.MD     { return s.a.fail }
func (s *answerStream) SendMsg(any) error        { return nil }
func (s *answerStream) CloseSend() error         { return nil }
func (s *answerStream) RecvMsg(m any) error {
	if s.n == len(s.a.stream) {
		return io.EOF
	}
	s.n++
	return decode(s.a.stream[s.n-1], m)
}

// packed joins messages to the input of a fuzz target that takes a stream. split reverses it.
func packed(t testing.TB, messages ...proto.Message) []byte {
	var out []byte
	for _, m := range messages {
		b := encoded(t, m)
		out = append(binary.LittleEndian.AppendUint16(out, uint16(len(b))), b...)
	}
	return out
}

func split(data []byte) (list [][]byte) {
	for len(data) >= 2 && len(list) < 64 {
		n := min(int(binary.LittleEndian.Uint16(data)), len(data)-2)
		list = append(list, data[2:2+n])
		data = data[2+n:]
	}
	return list
}

func encoded(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

// perByte bounds how much the host allocates per byte of a reply, besides a constant and the granted frames. The
// smallest protobuf message inside a list has two bytes and becomes a structure of about 200.
const perByte = 200

// bounded runs f on a reply of n bytes. f must not allocate more than allowed, and an error must have a message
// and a known kind.
func bounded(t *testing.T, n, granted int, f func() error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := f()
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+perByte*n+granted); got > most {
		t.Fatalf("%d bytes were allocated for a reply of %d, at most %d are in order", got, n, most)
	}
	if err == nil {
		return
	}
	var e *plugins.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an error for a person: %v", err)
	}
	if strings.TrimSpace(e.Message) == "" || e.Kind < plugins.Invalid || e.Kind > plugins.Diverged ||
		!utf8.ValidString(e.Error()) {
		t.Fatalf("kind %v, message %q", e.Kind, e.Message)
	}
}

func envSpec() *pb.EnvSpec {
	return &pb.EnvSpec{
		Cameras:      []*pb.Camera{{Name: "main", Height: 40, Width: 40, View: "third_person"}},
		RecordCamera: "main",
		Proprio:      []string{"x"},
		Action: &pb.ActionSpace{
			Names:   []string{"dx", "dy"},
			Low:     []float32{-1, -1},
			High:    []float32{1, 1},
			Meaning: "delta",
			RateHz:  20,
		},
	}
}

func tensor(d pb.DType, data []byte, shape ...int64) *pb.Tensor {
	return &pb.Tensor{Dtype: d, Shape: shape, Data: &pb.Tensor_Inline{Inline: data}}
}

func floats(v []float32, shape ...int64) *pb.Tensor {
	return tensor(pb.DType_DTYPE_FLOAT32, plugins.Floats(v, len(v)).Data, shape...)
}

func FuzzInfo(f *testing.F) {
	f.Add(
		encoded(
			f,
			&pb.InfoReply{
				Name:     "a",
				Kind:     pb.Kind_KIND_ENV,
				Version:  "1",
				MaxLanes: 3,
				Versions: map[string]string{"x": "1"},
				Settings: []*pb.Setting{
					{Name: "k", Default: &pb.Value{Value: &pb.Value_IntValue{IntValue: 3}}, Min: proto.Float64(1)},
					{Name: "none"},
				},
			},
		),
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			info, err := env.NewClient(&answers{unary: map[string][]byte{"": data}}, nil).Info(t.Context())
			if err == nil {
				require.NotEmpty(t, info.Name)
				require.LessOrEqual(t, info.MaxLanes, 1<<16)
				_, err = plugins.Resolve(info.Settings, nil)
			}
			return err
		})
	})
}

// FuzzPlain replies to the calls whose replies are almost empty.
func FuzzPlain(f *testing.F) {
	f.Add(
		encoded(f,
			&pb.HealthReply{Ready: true, Busy: []string{"Step lane 2", "Act"}, SinceProgressMs: math.MaxUint64}),
	)
	f.Add(encoded(f, &pb.LoadReply{UpdateId: math.MaxUint64}))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := policy.NewClient(&answers{unary: map[string][]byte{"": data}}, nil)
		for _, call := range []func() error{
			func() error {
				h, err := c.Health(t.Context())
				require.GreaterOrEqual(t, h.SinceProgress, time.Duration(0))
				return err
			},
			func() error { return c.Configure(t.Context(), plugins.Config{WorldSize: 1}) },
			func() error { return c.Forget(t.Context(), nil) },
			func() error { return c.Save(t.Context(), "x") },
			func() error { _, err := c.Load(t.Context(), "x"); return err },
		} {
			bounded(t, len(data), 0, call)
		}
	})
}

// Bytes that are not a message are an error of kind Corrupt, like any other reply that breaks the contract.
func TestReplyIsNotAMessage(t *testing.T) {
	_, err := env.NewClient(&answers{unary: map[string][]byte{"": {0x0a, 0xff}}}, nil).Describe(t.Context())
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
	require.ErrorContains(t, err, "the reply is not a message of the contract")
	require.NotEmpty(t, plugins.AsError(err).Hint)
}

func FuzzEnvSpec(f *testing.F) {
	f.Add(encoded(f, envSpec()))
	bad := envSpec()
	bad.Action.High[0] = float32(math.NaN())
	f.Add(encoded(f, bad))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			s, err := env.NewClient(&answers{unary: map[string][]byte{"": data}}, nil).Describe(t.Context())
			if err == nil {
				require.NoError(t, s.Action.Check())
				require.NoError(t, s.Action.Fits(s.Action))
			}
			return err
		})
	})
}

func FuzzTasks(f *testing.F) {
	f.Add(
		packed(f,
			&pb.Task{Id: "a", Instruction: "do", StartStates: 2, MaxSteps: 9, Tags: map[string]string{"level": "L1"}},
			&pb.Task{Id: "b", Unavailable: "no"}),
	)
	f.Add(packed(f, &pb.Task{Id: "a", StartStates: 1, MaxSteps: 1}, &pb.Task{Id: "a", StartStates: 1, MaxSteps: 1}))
	f.Add(packed(f, &pb.Task{Id: "a", StartStates: 4e9, MaxSteps: 9}))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() (last error) {
			seen := map[string]bool{}
			for task, err := range env.NewClient(&answers{stream: split(data)}, nil).Tasks(t.Context()) {
				require.NoError(t, last, "nothing comes after an error")
				if last = err; err == nil {
					require.False(t, seen[task.ID])
					require.LessOrEqual(t, task.StartStates, 1<<20, "the host makes a list of them")
					seen[task.ID] = true
				}
			}
			return last
		})
	})
}

func TestHugeCounts(t *testing.T) {
	for _, task := range []*pb.Task{
		{Id: "a", StartStates: 4e9, MaxSteps: 9}, {Id: "a", StartStates: 1, MaxSteps: 4e9},
		{Id: "a", Unavailable: "no", StartStates: 4e9},
	} {
		for _, err := range env.NewClient(&answers{stream: split(packed(t, task))}, nil).Tasks(t.Context()) {
			require.ErrorContains(t, err, `task "a" has `)
			require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
			require.NotEmpty(t, plugins.AsError(err).Hint)
		}
	}
}

// fuzzRender requests everything that a transition can contain.
var fuzzRender = env.Render{Observe: []string{"main"}, Record: "main", RecordEvery: 1}

func FuzzTransition(f *testing.F) {
	picture := make([]byte, 40*40*3)
	reply := &pb.StepReply{
		StepsDone:    2,
		EpisodeSteps: 2,
		Progress:     proto.Float64(0.5),
		Recorded:     tensor(pb.DType_DTYPE_UINT8, append(picture, picture...), 2, 40, 40, 3),
		Actions:      floats([]float32{0, 1, 0, 1}, 2, 2),
		Observation: &pb.Observation{
			Images:      map[string]*pb.Tensor{"main": tensor(pb.DType_DTYPE_UINT8, picture, 40, 40, 3)},
			Proprio:     floats([]float32{1}, 1),
			Instruction: "do",
		},
	}
	f.Add(encoded(f, reply))
	slot := &pb.Tensor{
		Dtype: pb.DType_DTYPE_UINT8,
		Shape: []int64{40, 40, 3},
		Data:  &pb.Tensor_Slot{Slot: &pb.Slot{Offset: 64, Length: 4800, Generation: 1}},
	}
	reply.Observation.Images["main"], reply.Recorded = slot, nil
	f.Add(encoded(f, reply))
	for i := range 200 { // the same frame under many names
		reply.Observation.Images[string(rune('a'+i))] = slot
	}
	f.Add(encoded(f, reply))
	f.Add(
		encoded(
			f,
			&pb.StepReply{
				Observation: &pb.Observation{Proprio: tensor(pb.DType_DTYPE_FLOAT32, nil, 1<<31, 1<<31, 1<<31)},
			},
		),
	)
	f.Add(
		encoded(
			f,
			&pb.StepReply{
				Observation: &pb.Observation{Proprio: floats([]float32{float32(math.NaN())}, 1)},
				Success:     true,
			},
		),
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := arena.New(1 << 16)
		require.NoError(t, err)
		defer a.Close()
		c := env.NewClient(
			&answers{
				unary: map[string][]byte{
					pb.EnvPlugin_DescribeEnv_FullMethodName: encoded(t, envSpec()),
					pb.Plugin_Configure_FullMethodName:      nil,
					"":                                      data,
				},
			},
			a,
		)
		require.NoError(t, c.Configure(t.Context(), plugins.Config{Lanes: 1}))
		free := a.Available()
		for _, step := range []func() (env.Transition, error){
			func() (env.Transition, error) {
				return c.Reset(t.Context(), env.Reset{Task: "a", Render: fuzzRender})
			},
			func() (env.Transition, error) {
				return env.StepExpert(t.Context(), c, env.ExpertStep{Steps: 2, Render: fuzzRender})
			},
		} {
			bounded(t, len(data), 3*4864, func() error {
				tr, err := step()
				if err == nil {
					require.Contains(t, tr.Observation.Images, "main")
					require.False(t, tr.Success && !tr.Terminated)
				}
				return err
			})
			require.Equal(t, free, a.Available(), "what was granted was taken back")
		}
	})
}

// A reply that refers to the same granted bytes many times does not make the host copy them many times.
func TestSameBytesTwice(t *testing.T) {
	a, err := arena.New(1 << 16)
	require.NoError(t, err)
	defer a.Close()
	frame := &pb.Tensor{
		Dtype: pb.DType_DTYPE_UINT8,
		Shape: []int64{40, 40, 3},
		Data:  &pb.Tensor_Slot{Slot: &pb.Slot{Offset: 64, Length: 4800, Generation: 1}},
	}
	images := map[string]*pb.Tensor{"main": frame}
	for i := range 3000 {
		images[string(rune('a'+i))] = frame
	}
	reply := encoded(t, &pb.StepReply{Observation: &pb.Observation{Images: images}})
	c := env.NewClient(
		&answers{
			unary: map[string][]byte{
				pb.EnvPlugin_DescribeEnv_FullMethodName: encoded(t, envSpec()),
				pb.Plugin_Configure_FullMethodName:      nil,
				"":                                      reply,
			},
		},
		a,
	)
	require.NoError(t, c.Configure(t.Context(), plugins.Config{Lanes: 1}))
	_, err = env.StepExpert(t.Context(), c, env.ExpertStep{Steps: 2, Render: fuzzRender})
	require.ErrorContains(t, err, "more bytes than the")
	require.Equal(t, plugins.Corrupt, plugins.KindOf(err))
}

func FuzzPolicySpec(f *testing.F) {
	f.Add(
		encoded(
			f,
			&pb.PolicySpec{
				Cameras:    []*pb.CameraRequest{{Name: "main", Height: 4, Width: 4}},
				Chunk:      8,
				Action:     envSpec().Action,
				Trainable:  true,
				Parameters: math.MaxUint64,
			},
		),
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			s, err := policy.NewClient(&answers{unary: map[string][]byte{"": data}}, nil).Describe(t.Context())
			if err == nil {
				require.Positive(t, s.Chunk)
				require.GreaterOrEqual(t, s.Parameters, 0)
			}
			return err
		})
	})
}

func FuzzAct(f *testing.F) {
	one := &pb.ActResult{Actions: floats([]float32{0, 0.5, 1, -1}, 2, 2), LogProbs: floats([]float32{-1, -2}, 2)}
	f.Add(encoded(f, &pb.ActReply{Results: []*pb.ActResult{one, one}}))
	f.Add(encoded(f, &pb.ActReply{Results: []*pb.ActResult{one, {}}}))
	f.Add(
		encoded(
			f,
			&pb.ActReply{
				Results: []*pb.ActResult{one, {Actions: floats([]float32{1}, 1, 1), LogProbs: floats(nil, 0)}},
			},
		),
	)
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			r, err := policy.NewClient(&answers{unary: map[string][]byte{"": data}}, nil).
				Act(t.Context(), policy.Act{Items: make([]policy.Item, 2)})
			if err == nil {
				require.Len(t, r, 2)
				for _, x := range r {
					require.Len(t, x.Actions.Shape, 2)
					require.Len(t, x.Actions.Float32s(), x.Actions.Shape[0]*x.Actions.Shape[1])
				}
			}
			return err
		})
	})
}

func FuzzUpdate(f *testing.F) {
	f.Add(
		packed(
			f,
			&pb.UpdateReply{Progress: 0.5},
			&pb.UpdateReply{
				Progress: 1,
				Statistics: &pb.UpdateStatistics{Loss: 1, Kl: math.Inf(1), Samples: math.MaxUint64,
					Extra: map[string]float64{"entropy": math.NaN()}},
			},
		),
	)
	f.Add(packed(f, &pb.UpdateReply{Progress: math.NaN()}))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			s, err := policy.NewClient(&answers{stream: split(data)}, nil).
				Update(t.Context(), policy.Update{ID: 1}, func(float64) {})
			require.GreaterOrEqual(t, s.Samples, 0)
			return err
		})
	})
}

func FuzzImitate(f *testing.F) {
	f.Add(packed(f, &pb.ImitateReply{Progress: 0.5, Loss: 1}, &pb.ImitateReply{Progress: 1, Done: true}))
	f.Add(packed(f, &pb.ImitateReply{Loss: math.NaN()}))
	none := func(func(policy.Demonstration, error) bool) {}
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			return policy.NewClient(&answers{stream: split(data)}, nil).
				Imitate(t.Context(), policy.Imitate{ID: 1}, none, func(_, _ float64) {})
		})
	})
}

func FuzzEncoderSpec(f *testing.F) {
	f.Add(encoded(f, &pb.EncoderSpec{Dimension: 3072, Frames: 16, Batch: 4, Model: "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		bounded(t, len(data), 0, func() error {
			s, err := encoder.NewClient(&answers{unary: map[string][]byte{"": data}}, nil).Describe(t.Context())
			require.True(t, err != nil || s.Dimension > 0)
			return err
		})
	})
}

func FuzzEmbeddings(f *testing.F) {
	f.Add(encoded(f, &pb.EncodeReply{Embeddings: floats([]float32{1, 2, 3, float32(math.NaN()), 5, 6}, 2, 3)}))
	f.Add(encoded(f, &pb.EncodeReply{Embeddings: floats([]float32{1, 2, 3}, 3, 1)}))
	f.Add(encoded(f, &pb.EncodeReply{Embeddings: floats(nil, 2, 0)}))
	f.Add(
		encoded(
			f,
			&pb.EncodeReply{
				Embeddings: &pb.Tensor{
					Dtype: pb.DType_DTYPE_FLOAT32,
					Shape: []int64{2, 3},
					Data:  &pb.Tensor_Slot{Slot: &pb.Slot{Offset: 64, Length: 24, Generation: 1}},
				},
			},
		),
	)
	clip := plugins.Bytes(make([]byte, 48), 1, 4, 4, 3)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := encoder.NewClient(&answers{unary: map[string][]byte{"": data}}, nil)
		for _, encode := range []func() ([][]float32, error){
			func() ([][]float32, error) { return c.Encode(t.Context(), []plugins.Tensor{clip, clip}) },
			func() ([][]float32, error) { return c.EncodeWindows(t.Context(), clip, []int{1, 1}) },
		} {
			bounded(t, len(data), 0, func() error {
				v, err := encode()
				require.True(t, err != nil || len(v) == 2 && len(v[0]) == len(v[1]))
				return err
			})
		}
	})
}

// FuzzFailure fails a call with an arbitrary error in its trailer.
func FuzzFailure(f *testing.F) {
	f.Add(
		encoded(
			f,
			&pb.Error{
				Kind:    pb.ErrorKind_ERROR_KIND_EXHAUSTED,
				Message: "no memory",
				Place:   "lane 2",
				Hint:    "less",
				Detail:  "Traceback",
			},
		),
		"x",
	)
	f.Add(encoded(f, &pb.Error{Kind: 77}), "\xff")
	f.Add(encoded(f, &pb.Error{Kind: pb.ErrorKind_ERROR_KIND_INTERNAL, Message: "\x1b[2J\r\n"}), "\x1b")
	f.Add(encoded(f, &pb.Error{Kind: pb.ErrorKind_ERROR_KIND_DIVERGED}), "")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, trailer []byte, message string) {
		a := &answers{
			unary: map[string][]byte{"": []byte(message)},
			fail:  metadata.Pairs("srpo-error-bin", string(trailer)),
		}
		_, err := env.NewClient(a, nil).Info(t.Context())
		bounded(t, len(trailer)+len(message), 0, func() error { return err })
		require.LessOrEqual(t, len(plugins.AsError(err).Error()), 64<<10)
		require.NotContains(t, plugins.AsError(err).Error(), "\x1b", "it goes to a terminal")
	})
}
