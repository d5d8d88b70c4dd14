package supervise

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// errorLines is the number of a plugin's last lines in an error.
const errorLines = 20

// scratchFolder contains the scratch folders of plugins. It is in the folder of logs.
const scratchFolder = "scratch"

// Options apply to all plugins of a run. The zero value of a field means its default.
type Options struct {
	// LogDir gets a log file per plugin; empty: a temporary folder, removed at the end.
	LogDir string
	// StartTimeout bounds a start, from exec to the first answer; default 120 s.
	StartTimeout time.Duration
	// StopGrace is the time that a plugin has to stop by itself before its process group is killed; default
	// 1.5 s, so that all processes are gone after 2 s.
	StopGrace time.Duration
	// ArenaBytes is the size of the shared-memory arena of each process. 0: no arena, tensors travel in the
	// messages, as they also do on a system without sealed memory files.
	ArenaBytes int
	// EnvAllow are names of environment variables that plugins get in addition to [EnvAllow]. A star at the
	// end matches any rest; PLUGIN:NAME applies to one plugin.
	EnvAllow []string
	// Restarts is the number of times that each plugin may be replaced: within Window, or in the whole run
	// if Window is 0.
	Restarts int
	Window   time.Duration
	// Backoff is the wait before the first restart. It doubles with each further one up to MaxBackoff, and
	// starts again after a process lived for a minute. Defaults 100 ms and 10 s.
	Backoff, MaxBackoff time.Duration
	// Silence is the time without a heartbeat in a call after which a process is killed; 0: unlimited. In
	// Configure, where Python loads libraries with its lock held, it is five times that.
	Silence time.Duration
	// Patience is the number of deadlines that a call may take while the process sends heartbeats and its
	// group uses the processor. Minimum and default 1.
	Patience float64
	// Deadlines of calls; zero fields: [DefaultDeadlines].
	Deadlines Deadlines
	// OnEvent receives starts, deaths and restarts, and must not block. May be nil.
	OnEvent func(Event)
}

// Event is a change of a plugin's process.
type Event struct {
	Time time.Time
	// Plugin is its label, as in errors, e.g. "env libero #2".
	Plugin string
	// What is "started", "ready" (configured), "died", "replaced" (killed because a call failed),
	// "restarting" or "gave up".
	What        string
	PID         int
	Incarnation uint64
	// Seconds is the duration of a start, or the wait before a restart.
	Seconds float64
	// Cause is the reason for died, replaced, restarting and gave up.
	Cause string
}

// Launch describes a plugin to run.
type Launch struct {
	Kind plugins.Kind
	Name string
	// Instance distinguishes processes of one plugin, e.g. "2"; empty: there is one.
	Instance string
	// Argv is the command. A path that is not absolute is relative to Dir.
	Argv []string
	// Dir is the working folder; empty: the host's.
	Dir string
	// Env are variables that take precedence over the allow-listed ones.
	Env map[string]string
	// VerifyPackage returns an error when the package has changed since the launch was made. A
	// [ProcessWorker] calls it before a restart. nil: the package cannot change.
	VerifyPackage func() error
}

// Label names the plugin in errors, events and log files.
func (l Launch) Label() string {
	s := string(l.Kind) + " " + l.Name
	if l.Instance != "" {
		s += " #" + l.Instance
	}
	return s
}

// Supervisor starts the processes of a run, and ends all of them when it is closed.
type Supervisor struct {
	o      Options
	folder *runFolder
	count  atomic.Uint64

	mu      sync.Mutex
	closed  bool
	live    map[*Process]bool
	workers []interface{ Close() }
}

// New makes a supervisor, and removes what earlier hosts left. The caller must call Close.
func New(o Options) (*Supervisor, error) {
	orDefault(&o.StartTimeout, 120*time.Second)
	orDefault(&o.StopGrace, 1500*time.Millisecond)
	orDefault(&o.Backoff, 100*time.Millisecond)
	orDefault(&o.MaxBackoff, 10*time.Second)
	orDefault(&o.Deadlines.Configure, 5*o.StartTimeout)
	o.Patience = max(1, o.Patience)
	o.Deadlines = o.Deadlines.orDefaults()
	folder, err := newRunFolder()
	if err != nil {
		return nil, err
	}
	if o.LogDir == "" {
		o.LogDir = filepath.Join(folder.path, "logs")
	}
	if o.LogDir, err = filepath.Abs(o.LogDir); err == nil {
		err = os.MkdirAll(o.LogDir, 0o755)
	}
	if err != nil {
		folder.remove()
		return nil, plugins.Errorf(plugins.Invalid, "the folder for plugin logs: %w", err).
			WithHint("give a folder that can be written to")
	}
	return &Supervisor{o: o, folder: folder, live: map[*Process]bool{}}, nil
}

func orDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

func (s *Supervisor) event(e Event) {
	if s.o.OnEvent != nil {
		e.Time = time.Now()
		s.o.OnEvent(e)
	}
}

// Close stops all workers and processes in parallel, and removes the private folder. It takes little more
// than StopGrace.
func (s *Supervisor) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	workers := s.workers
	var live []*Process
	for p := range s.live {
		live = append(live, p)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(w.Close)
	}
	for _, p := range live {
		wg.Go(p.Stop)
	}
	wg.Wait()
	_ = os.RemoveAll(filepath.Join(s.o.LogDir, scratchFolder))
	s.folder.remove()
}

// Scratch makes an empty folder that a plugin may write to, in the folder of logs. [Supervisor.Close]
// removes it. The next Scratch of the same name removes one that a killed host left.
func (s *Supervisor) Scratch(name string) (string, error) {
	parent := filepath.Join(s.o.LogDir, scratchFolder)
	folder := filepath.Join(parent, fileName(name))
	err := os.RemoveAll(folder)
	if err == nil {
		// Not MkdirAll: a process that starts late must not create a run folder that was moved away.
		if err = os.Mkdir(parent, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			err = os.Mkdir(folder, 0o700)
		}
	}
	if err != nil {
		return "", plugins.Errorf(plugins.Exhausted, "the scratch folder of %s: %w", name, err).
			WithHint("give a folder that can be written to")
	}
	return folder, nil
}

// Process is a running plugin.
type Process struct {
	s         *Supervisor
	launch    Launch
	leader    *leader
	out       *output
	client    *plugin.Client
	proto     atomic.Pointer[plugin.ClientProtocol] // nil before the handshake; Stop may read it during a start
	conn      *grpc.ClientConn
	arena     *arena.Arena // nil: none
	heartbeat *heartbeat
	stop      sync.Once
	cleanup   sync.Once
	gone      chan struct{} // closed when all resources of the process are released
	group     *rankGroup    // nil: the plugin is one process
	rank      int
	// endedAfter is the rank whose end caused the end of this process.
	endedAfter atomic.Pointer[Process]
}

// Start runs a plugin and does its handshake. The error tells what happened: the plugin printed on stdout,
// uses another protocol version, died (with its last lines), or hung.
func (s *Supervisor) Start(ctx context.Context, launch Launch) (*Process, error) {
	return s.start(ctx, launch, nil, 0)
}

func (s *Supervisor) start(ctx context.Context, launch Launch, group *rankGroup, rank int) (*Process, error) {
	p := &Process{s: s, launch: launch, gone: make(chan struct{}), group: group, rank: rank}
	if len(launch.Argv) == 0 {
		return nil, p.startError(plugins.Invalid, "no command to run")
	}
	began := time.Now()
	if err := p.prepare(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		p.leader.abandon(nil)
		p.releaseShared()
		return nil, p.startError(plugins.Canceled, "the run is ending")
	}
	s.live[p] = true
	s.mu.Unlock()

	failure := p.connectWithin(ctx, s.o.StartTimeout)
	p.heartbeat.started()
	if failure == nil {
		p.heartbeat.watch(p.leader.exited, func(d time.Duration) {
			p.leader.killBecause(fmt.Sprintf("as it sent no heartbeat for %v", d))
		})
		s.event(Event{Plugin: p.Label(), What: "started", PID: p.PID(), Seconds: time.Since(began).Seconds()})
		go func() {
			<-p.leader.exited
			p.release()
		}()
		return p, nil
	}
	p.leader.abandon(failure) // does nothing once there is a process
	// A plugin that is ending by itself gets the time to report why.
	if errors.Is(failure, errStartTimeout) || !p.exitedWithin(time.Second) {
		p.leader.kill()
		p.exitedWithin(2 * time.Second)
	}
	err := p.explainStart(failure)
	p.release()
	return nil, err
}

func (p *Process) startError(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
	return plugins.Errorf(kind, format, args...).WithPlace("%s", p.Label())
}

// prepare makes everything that a start needs: log, pipes, arena, certificate, leader and client.
func (p *Process) prepare() error {
	s := p.s
	name := fmt.Sprintf("%s-%s", p.launch.Kind, fileName(p.launch.Name))
	if p.launch.Instance != "" {
		name += "-" + fileName(p.launch.Instance)
	}
	p.out = newOutput(filepath.Join(s.o.LogDir, name+".log"))
	certificate, pem, err := newCertificate()
	if err != nil {
		return p.startError(plugins.Internal, "making a certificate: %w", err)
	}
	tag := fmt.Sprintf("%s/%d", s.folder.tag, s.count.Add(1))
	vars := maps.Clone(p.launch.Env)
	if vars == nil {
		vars = map[string]string{}
	}
	vars[tagEnv] = tag
	vars[plugins.LifelineEnv] = fmt.Sprint(plugins.LifelineFD)
	vars["PLUGIN_CLIENT_CERT"] = pem
	if here, err := os.Getwd(); err == nil {
		vars[plugins.WorkingFolderEnv] = here
	}
	inherits, lifelineR, lifelineW, err := p.share(vars)
	if err != nil {
		p.releaseShared()
		return err
	}
	cmd := exec.Command(p.launch.Argv[0], p.launch.Argv[1:]...)
	cmd.Dir = p.launch.Dir
	p.leader = newLeader(cmd, tag, p.out, lifelineR, lifelineW, inherits...)
	p.client = p.newClient(cmd, vars, certificate)
	return nil
}

// share makes the arena and the pipes that the process inherits, and sets their variables.
func (p *Process) share(vars map[string]string) (inherits []*os.File, lifelineR, lifelineW *os.File, err error) {
	if p.s.o.ArenaBytes > 0 {
		p.arena, err = arena.New(p.s.o.ArenaBytes)
		switch {
		case err == nil:
			vars[plugins.ArenaEnv] = fmt.Sprint(plugins.ArenaFD)
			inherits = append(inherits, p.arena.File())
		// no memory files on this system: tensors travel in the messages
		case plugins.KindOf(err) == plugins.Unsupported:
			p.out.line("srpo", "--- "+err.Error())
		default:
			return nil, nil, nil, plugins.AsError(err).WithPlace("%s", p.Label())
		}
	}
	noPipe := func(err error) error {
		return p.startError(plugins.Exhausted, "making a pipe: %w", err).
			WithHint("raise the limit of open files (ulimit -n)")
	}
	if lifelineR, lifelineW, err = os.Pipe(); err != nil {
		return nil, nil, nil, noPipe(err)
	}
	h, err := newHeartbeat(p.s.o.Silence)
	if err != nil {
		_, _ = lifelineR.Close(), lifelineW.Close()
		return nil, nil, nil, noPipe(err)
	}
	p.heartbeat = h
	vars[plugins.HeartbeatEnv] = h.variable(plugins.LifelineFD + 1 + len(inherits))
	return append(inherits, h.w), lifelineR, lifelineW, nil
}

// newClient makes the client of go-plugin. It adds the magic cookie, the protocol versions and the socket
// folder to the command.
func (p *Process) newClient(cmd *exec.Cmd, vars map[string]string, certificate tls.Certificate) *plugin.Client {
	o := p.s.o
	return plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugins.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{plugins.Protocol: {}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			cmd.Env = append(environ(hostEnviron(), allowedFor(p.launch.Name, o.EnvAllow), vars), spec.Env...)
			return p.leader, nil
		},
		SkipHostEnv: true,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			MinVersion:   tls.VersionTLS12,
			ServerName:   "localhost",
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.s.folder.path},
		StartTimeout:     o.StartTimeout + 10*time.Second, // connectWithin times out first
		SyncStdout:       &lines{to: p.out, source: "out"},
		SyncStderr:       &lines{to: p.out, source: "err"},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  serve.DialOptions(),
	})
}

var errStartTimeout = errors.New("start timeout")

// connectWithin is connect with a timeout. It kills the process when that passes.
func (p *Process) connectWithin(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errStartTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.connect(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		p.leader.kill()
		<-done // connect returns when the process has ended
		return context.Cause(ctx)
	}
}

// connect starts the process, does the handshake and checks that the plugin answers.
func (p *Process) connect(ctx context.Context) error {
	proto, err := p.client.Client()
	if err != nil {
		return err
	}
	p.proto.Store(&proto)
	g, ok := proto.(*plugin.GRPCClient)
	if !ok {
		return errors.New("no gRPC connection")
	}
	request := &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName}
	_, err = grpc_health_v1.NewHealthClient(g.Conn).Check(ctx, request)
	if c := status.Code(err); err != nil && c != codes.Unimplemented && c != codes.NotFound {
		return err
	}
	p.conn = g.Conn
	return nil
}

const (
	// maxQuoted is the number of characters of an unexpected line that an error quotes, maxQuotedDetail
	// that of each line of its detail.
	maxQuoted       = 80
	maxQuotedDetail = 400
)

// cutLines shortens each line of a text to n characters.
func cutLines(text string, n int) string {
	list := strings.Split(text, "\n")
	for i, line := range list {
		if r := []rune(line); len(r) > n {
			list[i] = string(r[:n]) + "..."
		}
	}
	return strings.Join(list, "\n")
}

// explainStart returns the error for a start that failed.
func (p *Process) explainStart(failure error) *plugins.Error {
	l := p.leader
	detail := p.out.last(errorLines)
	fail := func(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
		return p.startError(kind, format, args...).WithDetail(detail)
	}
	if l.startError != nil {
		return fail(plugins.NotFound, "could not be started: %w", l.startError).
			WithHint("check the command, and that the file can be executed: %s", p.launch.Argv[0])
	}
	timeout := p.s.o.StartTimeout
	slow := fmt.Sprintf("read %s; if it only needs longer, raise [host] start_timeout_s", p.out.path)
	var line string
	select {
	case line = <-l.firstLine:
	default:
	}
	version, certificate, notHandshake := parseHandshake(line)
	switch {
	case errors.Is(failure, errStartTimeout) && line == "":
		return fail(plugins.Deadline, "did not finish its handshake within %v", timeout).WithHint("%s", slow)
	case line != "" && notHandshake != nil:
		shown, _ := readable(line)
		detail = cutLines(detail, maxQuotedDetail)
		quoted := cutLines(shown, maxQuoted)
		return fail(plugins.Corrupt, "printed on stdout before the handshake: %q%s", quoted, l.alsoExited()).
			WithHint("print to stderr instead; in Python import srpo_sdk before anything else, in Go call " +
				"sdk.Serve first in main")
	case line != "" && version != plugins.Protocol:
		hint := "install a version of the plugin for this srpo"
		if version > plugins.Protocol {
			hint = "this plugin is made for a newer srpo: upgrade srpo, or install an older version of the plugin"
		}
		return fail(plugins.Mismatch, "uses protocol version %d, this srpo uses %d", version, plugins.Protocol).
			WithHint("%s", hint)
	case line != "" && !certificate:
		return fail(plugins.Corrupt, "sent no TLS certificate in its handshake").
			WithHint("the plugin must answer PLUGIN_CLIENT_CERT with mutual TLS; both SDKs do")
	case errors.Is(failure, errStartTimeout):
		return fail(
			plugins.Deadline,
			"finished its handshake, but did not answer within %v",
			timeout,
		).WithHint("%s", slow)
	case errors.Is(failure, context.Canceled):
		return fail(plugins.Canceled, "its start was cancelled")
	case errors.Is(failure, context.DeadlineExceeded):
		return fail(plugins.Deadline, "did not start in the remaining time")
	case line == "":
		hint := l.hint()
		if l.exitReason() == "exited with status 0" {
			hint = "check that the program calls srpo.serve(...) in Python, or sdk.ServeSim or a similar function " +
				"in Go; " + hint
		}
		return fail(plugins.Unavailable, "%s before its handshake", l.exitReason()).WithHint("%s", hint)
	}
	return fail(
		plugins.Unavailable,
		"finished its handshake, but could not be reached: %w%s",
		failure,
		l.alsoExited(),
	).
		WithHint("%s", l.hint())
}

func (p *Process) exitedWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.leader.exited:
		return true
	case <-t.C:
		return false
	}
}

// PID returns the id of the process.
func (p *Process) PID() int {
	p.leader.mu.Lock()
	defer p.leader.mu.Unlock()
	return p.leader.pid
}

// Label returns the name of the plugin in errors, events and logs, e.g. "env libero #2".
func (p *Process) Label() string { return p.launch.Label() }

// Conn returns the connection to the plugin. It breaks when the process ends.
func (p *Process) Conn() grpc.ClientConnInterface { return p.conn }

// Arena returns the shared memory of the process, nil when it has none.
func (p *Process) Arena() *arena.Arena { return p.arena }

// Exited returns a channel that is closed when the process and its group have ended.
func (p *Process) Exited() <-chan struct{} { return p.leader.exited }

// ExitReason describes how the process ended, e.g. "exited with status 3".
func (p *Process) ExitReason() string { return p.leader.exitReason() }

// LastLines returns the last n lines that the plugin printed, at most 40.
func (p *Process) LastLines(n int) string { return p.out.last(n) }

// LogFile returns the path of the file with everything that the plugin printed.
func (p *Process) LogFile() string { return p.out.path }

// Kill kills the process group and does not wait.
func (p *Process) Kill() { p.leader.kill() }

// Stop asks the plugin to stop, kills its process group after the grace period, and returns when all its
// processes are gone. For rank 0 it stops all ranks.
func (p *Process) Stop() {
	var others sync.WaitGroup
	if p.group != nil {
		p.group.stopping.Store(true) // the end of one rank no longer ends the others: each has the full grace period
	}
	for _, q := range p.Ranks() {
		if q != p {
			others.Go(q.Stop)
		}
	}
	defer others.Wait()
	p.stop.Do(func() {
		closed := make(chan struct{})
		if proto := p.proto.Load(); proto != nil {
			go func() { _ = (*proto).Close(); close(closed) }() // sends Shutdown; may hang until the process ends
		}
		if !p.exitedWithin(p.s.o.StopGrace) {
			p.leader.kill()
		}
	})
	<-p.leader.exited
	p.release()
}

// release frees the resources of a process that has ended.
func (p *Process) release() {
	p.cleanup.Do(func() {
		done := make(chan struct{})
		go func() { p.client.Kill(); close(done) }() // closes the connection and removes its socket folder
		select {
		case <-done:
		case <-time.After(time.Second):
		}
		p.releaseShared()
		p.out.close()
		p.s.mu.Lock()
		delete(p.s.live, p)
		p.s.mu.Unlock()
		close(p.gone)
	})
	<-p.gone
}

// releaseShared closes the resources that the process shares with the host.
func (p *Process) releaseShared() {
	if p.arena != nil {
		_ = p.arena.Close()
	}
	if p.heartbeat != nil {
		p.heartbeat.close()
	}
}
