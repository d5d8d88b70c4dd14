package wire

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// Client is the part of a client that all kinds of plugin share.
type Client struct {
	rpc pb.PluginClient
	// Arena is the shared memory of the process. If it is nil, the messages carry the tensors.
	Arena *arena.Arena
	// ArenaFD is the arena's descriptor in the plugin's process: [plugins.ArenaFD], except in tests, where both
	// sides run in one process.
	ArenaFD int
}

// NewClient makes the shared part over a connection.
func NewClient(cc grpc.ClientConnInterface, a *arena.Arena) Client {
	return Client{rpc: pb.NewPluginClient(cc), Arena: a, ArenaFD: plugins.ArenaFD}
}

// Info returns the plugin's description of itself.
func (c *Client) Info(ctx context.Context) (plugins.Info, error) {
	m, err := Do(ctx, c.rpc.Info, &pb.InfoRequest{})
	if err != nil {
		return plugins.Info{}, err
	}
	info := plugins.Info{
		Name:        Text(m.Name),
		Version:     Text(m.Version),
		Protocol:    int(m.Protocol),
		Doc:         Text(m.Doc),
		MaxLanes:    int(m.MaxLanes),
		Distributed: m.Distributed,
		Versions:    map[string]string{},
	}
	switch m.Kind {
	case pb.Kind_KIND_ENV:
		info.Kind = plugins.Env
	case pb.Kind_KIND_POLICY:
		info.Kind = plugins.Policy
	case pb.Kind_KIND_ENCODER:
		info.Kind = plugins.Encoder
	default:
		return info, plugins.Errorf(plugins.Corrupt, "plugin %q reports the unknown kind %d", info.Name, m.Kind)
	}
	if info.Name == "" {
		return info, plugins.Errorf(plugins.Corrupt, "the plugin's Info has no name")
	}
	if m.MaxLanes > 1<<16 || len(m.Settings) > 4096 || len(m.Versions) > 4096 {
		return info, plugins.Errorf(plugins.Corrupt, "plugin %q: Info names %d lanes, %d settings, %d versions",
			info.Name, m.MaxLanes, len(m.Settings), len(m.Versions))
	}
	for k, v := range m.Versions {
		info.Versions[Text(k)] = Text(v)
	}
	for _, s := range m.Settings {
		d, err := value(s.GetDefault())
		if err != nil {
			return info, plugins.Errorf(plugins.Corrupt, "plugin %q: setting %q has no default", info.Name,
				s.GetName())
		}
		info.Settings = append(
			info.Settings,
			plugins.Setting{
				Name:    Text(s.Name),
				Default: d,
				Doc:     Text(s.Doc),
				Choices: s.Choices,
				Min:     s.Min,
				Max:     s.Max,
			},
		)
	}
	return info, nil
}

// Configure sends the configuration, and the arena if there is one.
func (c *Client) Configure(ctx context.Context, cfg plugins.Config) error {
	m := &pb.ConfigureRequest{
		Settings: map[string]*pb.Value{}, Seed: cfg.Seed,
		Rank: uint32(cfg.Rank), WorldSize: uint32(max(cfg.WorldSize, 1)), Rendezvous: cfg.Rendezvous,
		Lanes: uint32(cfg.Lanes), Scratch: cfg.Scratch,
	}
	for k, v := range cfg.Settings {
		w, err := fromValue(v)
		if err != nil {
			return err
		}
		m.Settings[k] = w
	}
	if cfg.Env != nil {
		m.Env = FromEnvSpec(*cfg.Env)
	}
	for _, r := range cfg.Cameras {
		m.Cameras = append(m.Cameras, fromCameraRequest(r))
	}
	if c.Arena != nil {
		m.Arena = &pb.Arena{Fd: uint32(c.ArenaFD), Size: uint64(c.Arena.Size())}
	}
	_, err := Do(ctx, c.rpc.Configure, m)
	return err
}

// Health is a plugin's report of what it is doing.
type Health struct {
	Ready bool
	// Busy names the calls in progress.
	Busy []string
	// SinceProgress is the time since one of them last made progress.
	SinceProgress time.Duration
}

// Health returns what the plugin is doing. It answers while other calls run.
func (c *Client) Health(ctx context.Context) (Health, error) {
	m, err := Do(ctx, c.rpc.Health, &pb.HealthRequest{})
	if err != nil {
		return Health{}, err
	}
	busy := m.Busy
	for i := range busy {
		busy[i] = Text(busy[i])
	}
	return Health{
		Ready:         m.Ready,
		Busy:          busy,
		SinceProgress: time.Duration(min(m.SinceProgressMs, 1<<40)) * time.Millisecond,
	}, nil
}

// Server is the part of a server that all kinds of plugin share: the Plugin service, the arena and the list of
// running calls.
type Server struct {
	pb.UnimplementedPluginServer
	impl plugins.Plugin
	kind plugins.Kind

	arena      atomic.Pointer[arena.Arena]
	configured atomic.Bool

	mu   sync.Mutex
	busy map[*Running]struct{}
}

// NewServer makes the shared part of the server of a plugin.
func NewServer(impl plugins.Plugin, kind plugins.Kind) *Server {
	return &Server{impl: impl, kind: kind, busy: map[*Running]struct{}{}}
}

// Arena returns the arena that Configure received, or nil.
func (s *Server) Arena() *arena.Arena { return s.arena.Load() }

// Running is a call in progress.
type Running struct {
	s     *Server
	name  string
	since time.Time
}

// Enter adds a call to the list of running calls. It refuses calls before Configure.
func (s *Server) Enter(format string, args ...any) (*Running, error) {
	if !s.configured.Load() {
		return nil, plugins.Errorf(plugins.Invalid, "%s before Configure", fmt.Sprintf(format, args...))
	}
	return s.begin(fmt.Sprintf(format, args...)), nil
}

func (s *Server) begin(name string) *Running {
	r := &Running{s: s, name: name, since: time.Now()}
	s.mu.Lock()
	s.busy[r] = struct{}{}
	s.mu.Unlock()
	return r
}

// Progress records that the call made progress.
func (r *Running) Progress() {
	r.s.mu.Lock()
	r.since = time.Now()
	r.s.mu.Unlock()
}

// Leave removes the call from the list of running calls.
func (r *Running) Leave() {
	r.s.mu.Lock()
	delete(r.s.busy, r)
	r.s.mu.Unlock()
}

// Info implements srpo.v1.Plugin.
func (s *Server) Info(ctx context.Context, _ *pb.InfoRequest) (*pb.InfoReply, error) {
	info, err := s.impl.Info(ctx)
	if err != nil {
		return nil, err
	}
	m := &pb.InfoReply{
		Name:        info.Name,
		Version:     info.Version,
		Protocol:    plugins.Protocol,
		Doc:         info.Doc,
		MaxLanes:    uint32(info.MaxLanes),
		Distributed: info.Distributed,
		Versions:    info.Versions,
	}
	switch s.kind {
	case plugins.Env:
		m.Kind = pb.Kind_KIND_ENV
	case plugins.Policy:
		m.Kind = pb.Kind_KIND_POLICY
	case plugins.Encoder:
		m.Kind = pb.Kind_KIND_ENCODER
	}
	for _, d := range info.Settings {
		v, err := fromValue(d.Default)
		if err != nil {
			return nil, err
		}
		m.Settings = append(m.Settings,
			&pb.Setting{Name: d.Name, Default: v, Doc: d.Doc, Choices: d.Choices, Min: d.Min, Max: d.Max})
	}
	return m, nil
}

// Configure implements srpo.v1.Plugin.
func (s *Server) Configure(ctx context.Context, m *pb.ConfigureRequest) (*pb.ConfigureReply, error) {
	info, err := s.impl.Info(ctx)
	if err != nil {
		return nil, err
	}
	given := map[string]any{}
	for k, w := range m.Settings {
		if given[k], err = value(w); err != nil {
			return nil, plugins.Errorf(plugins.Invalid, "setting %q has no value", k)
		}
	}
	cfg := plugins.Config{
		Seed:       m.Seed,
		Rank:       int(m.Rank),
		WorldSize:  int(m.WorldSize),
		Rendezvous: m.Rendezvous,
		Lanes:      int(m.Lanes),
		Scratch:    m.Scratch,
	}
	if cfg.Settings, err = plugins.Resolve(info.Settings, given); err != nil {
		return nil, err
	}
	if m.Env != nil {
		spec := ToEnvSpec(m.Env)
		cfg.Env = &spec
	}
	for _, r := range m.Cameras {
		cfg.Cameras = append(cfg.Cameras, toCameraRequest(r))
	}
	if s.kind == plugins.Env && (cfg.Lanes < 1 || cfg.Lanes > max(info.MaxLanes, 1)) {
		return nil, plugins.Errorf(plugins.Invalid, "%d lanes were requested, one process of %s has 1 to %d",
			cfg.Lanes, info.Name, max(info.MaxLanes, 1))
	}
	if m.Arena != nil && s.arena.Load() == nil {
		a, err := arena.Map(int(m.Arena.Fd), int(m.Arena.Size))
		if err != nil {
			return nil, err
		}
		s.arena.Store(a)
	}
	r := s.begin("Configure")
	defer r.Leave()
	if err := s.impl.Configure(ctx, cfg); err != nil {
		return nil, err
	}
	s.configured.Store(true)
	return &pb.ConfigureReply{}, nil
}

// Health implements srpo.v1.Plugin.
func (s *Server) Health(context.Context, *pb.HealthRequest) (*pb.HealthReply, error) {
	m := &pb.HealthReply{Ready: s.configured.Load()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.busy {
		m.Busy = append(m.Busy, r.name)
		if d := uint64(time.Since(r.since).Milliseconds()); len(m.Busy) == 1 || d < m.SinceProgressMs {
			m.SinceProgressMs = d
		}
	}
	sort.Strings(m.Busy)
	return m, nil
}

func value(m *pb.Value) (any, error) {
	switch v := m.GetValue().(type) {
	case *pb.Value_BoolValue:
		return v.BoolValue, nil
	case *pb.Value_IntValue:
		return v.IntValue, nil
	case *pb.Value_FloatValue:
		return v.FloatValue, nil
	case *pb.Value_StringValue:
		return v.StringValue, nil
	case *pb.Value_ListValue:
		return append([]string{}, v.ListValue.GetValues()...), nil
	}
	return nil, plugins.Errorf(plugins.Corrupt, "value without a type")
}

func fromValue(v any) (*pb.Value, error) {
	switch v := v.(type) {
	case bool:
		return &pb.Value{Value: &pb.Value_BoolValue{BoolValue: v}}, nil
	case int:
		return &pb.Value{Value: &pb.Value_IntValue{IntValue: int64(v)}}, nil
	case int64:
		return &pb.Value{Value: &pb.Value_IntValue{IntValue: v}}, nil
	case float64:
		return &pb.Value{Value: &pb.Value_FloatValue{FloatValue: v}}, nil
	case string:
		return &pb.Value{Value: &pb.Value_StringValue{StringValue: v}}, nil
	case []string:
		return &pb.Value{Value: &pb.Value_ListValue{ListValue: &pb.StringList{Values: v}}}, nil
	}
	return nil, plugins.Errorf(plugins.Internal, "a setting cannot be of type %T", v)
}

// FromEnvSpec converts an env's description to a message.
func FromEnvSpec(s plugins.EnvSpec) *pb.EnvSpec {
	m := &pb.EnvSpec{
		Action:         FromActionSpace(s.Action),
		Proprio:        s.Proprio,
		Expert:         s.Expert,
		ExpertFailures: s.ExpertFailures,
		RecordCamera:   s.RecordCamera,
	}
	for _, c := range s.Cameras {
		m.Cameras = append(
			m.Cameras,
			&pb.Camera{
				Name:    c.Name,
				Height:  uint32(c.Height),
				Width:   uint32(c.Width),
				View:    c.View,
				AnySize: c.AnySize,
			},
		)
	}
	return m
}

// ToEnvSpec converts a message to an env's description. It does not check it.
func ToEnvSpec(m *pb.EnvSpec) plugins.EnvSpec {
	s := plugins.EnvSpec{
		Action:         ToActionSpace(m.GetAction()),
		Proprio:        m.GetProprio(),
		Expert:         m.GetExpert(),
		ExpertFailures: m.GetExpertFailures(),
		RecordCamera:   m.GetRecordCamera(),
	}
	for _, c := range m.GetCameras() {
		s.Cameras = append(
			s.Cameras,
			plugins.Camera{
				Name:    c.GetName(),
				Height:  int(c.GetHeight()),
				Width:   int(c.GetWidth()),
				View:    c.GetView(),
				AnySize: c.GetAnySize(),
			},
		)
	}
	return s
}

// FromActionSpace converts an action space to a message.
func FromActionSpace(a plugins.ActionSpace) *pb.ActionSpace {
	return &pb.ActionSpace{Names: a.Names, Low: a.Low, High: a.High, Meaning: a.Meaning, RateHz: a.RateHz}
}

// ToActionSpace converts a message to an action space. It does not check it.
func ToActionSpace(m *pb.ActionSpace) plugins.ActionSpace {
	return plugins.ActionSpace{
		Names:   m.GetNames(),
		Low:     m.GetLow(),
		High:    m.GetHigh(),
		Meaning: m.GetMeaning(),
		RateHz:  m.GetRateHz(),
	}
}

func fromCameraRequest(r plugins.CameraRequest) *pb.CameraRequest {
	return &pb.CameraRequest{Name: r.Name, Height: uint32(r.Height), Width: uint32(r.Width)}
}

func toCameraRequest(m *pb.CameraRequest) plugins.CameraRequest {
	return plugins.CameraRequest{Name: m.GetName(), Height: int(m.GetHeight()), Width: int(m.GetWidth())}
}

// FromCameraRequests converts requests to messages.
func FromCameraRequests(rs []plugins.CameraRequest) []*pb.CameraRequest {
	var ms []*pb.CameraRequest
	for _, r := range rs {
		ms = append(ms, fromCameraRequest(r))
	}
	return ms
}

// ToCameraRequests converts messages to requests.
func ToCameraRequests(ms []*pb.CameraRequest) []plugins.CameraRequest {
	var rs []plugins.CameraRequest
	for _, m := range ms {
		rs = append(rs, toCameraRequest(m))
	}
	return rs
}
