package supervise

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// lastWords is how many of a plugin's last lines an error carries.
const lastWords = 20

// scratchFolder is where plugins' scratch folders are, beside their logs.
const scratchFolder = "scratch"

// Options are what a run's plugins share; the zero value of each field gives its default.
type Options struct {
	// LogDir gets a log file for each plugin; empty: a temporary folder that is removed at the end.
	LogDir string
	// StartTimeout bounds a start, from exec to the first answer; default 120 s.
	StartTimeout time.Duration
	// StopGrace is how long a plugin may take to stop by itself before its process group is killed; default 1.5 s, so that with everything that
	// follows nobody is left after 2 s.
	StopGrace time.Duration
	// ArenaBytes is the size of each process's shared-memory arena; 0: off, tensors travel as bytes in the messages.
	ArenaBytes int
	// EnvAllow are names of environment variables that plugins get besides [EnvAllow]; a star at the end matches any rest. PLUGIN:NAME is for the plugin of that name.
	EnvAllow []string
	// Restarts is how often each plugin may be replaced: within Window, or within the run when Window is 0. 0: never.
	Restarts int
	Window   time.Duration
	// Backoff is the wait before the first restart, doubled for each further one up to MaxBackoff; a process that lived for a minute starts it anew.
	// Defaults 100 ms and 10 s.
	Backoff, MaxBackoff time.Duration
	// Silence is how long a process whose heart was heard may be silent in a call before it is killed; 0: any time, calls end at their deadlines. In Configure, where a Python loads
	// libraries with its lock held, it is five times that.
	Silence time.Duration
	// Patience is how many times its deadline a call may take while the process is seen to work: its heart beats, and its group uses the processor. Below 1: 1.
	Patience float64
	// Deadlines of calls; zero fields: [DefaultDeadlines].
	Deadlines Deadlines
	// OnEvent is told of starts, deaths and restarts; it must not block. nil: nobody is told.
	OnEvent func(Event)
}

// Event is something that happened to a plugin's process.
type Event struct {
	Time time.Time
	// Plugin is the label that errors carry too, e.g. "env libero #2".
	Plugin string
	// What is "started" (Seconds: what it took), "ready" (configured; Seconds likewise), "died", "replaced" (killed because a call failed), "restarting"
	// (Seconds: the wait before it) or "gave up".
	What        string
	PID         int
	Incarnation uint64
	Seconds     float64
	// Cause says why, for died, replaced, restarting and gave up.
	Cause string
}

// Launch says what to run.
type Launch struct {
	Kind plugins.Kind
	Name string
	// Instance tells processes of one plugin apart, e.g. "2"; empty: there is one.
	Instance string
	// Argv is the command; a path that is not absolute is looked up from Dir.
	Argv []string
	// Dir is the working folder; empty: the host's.
	Dir string
	// Env are variables over the allow-listed ones.
	Env map[string]string
	// VerifyPackage says whether the package is still what it was when this was made; a [Worker] asks before a restart. nil: there is nothing that could change.
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

// Supervisor starts processes and ends them all.
type Supervisor struct {
	o      Options
	folder *runFolder
	count  atomic.Uint64

	mu      sync.Mutex
	closed  bool
	live    map[*Process]bool
	workers []interface{ Close() }
}

// New makes a supervisor, and sweeps up what hosts that are gone left behind. Close it.
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
		return nil, plugins.Errorf(plugins.Invalid, "no folder for plugin logs: %w", err).WithHint("give a folder that can be written to")
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

// Close stops every worker and process, all at once, and removes the run's private folder. It takes a little more than StopGrace at most.
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
		wg.Add(1)
		go func() { defer wg.Done(); w.Close() }()
	}
	for _, p := range live {
		wg.Add(1)
		go func() { defer wg.Done(); p.Stop() }()
	}
	wg.Wait()
	_ = os.RemoveAll(filepath.Join(s.o.LogDir, scratchFolder))
	s.folder.remove()
}

// Scratch makes an empty folder of that name that a plugin may write to, in the folder of logs; [Supervisor.Close] removes it, and so does the next Scratch of
// the name, which is what becomes of one that a killed host left.
func (s *Supervisor) Scratch(name string) (string, error) {
	parent := filepath.Join(s.o.LogDir, scratchFolder)
	folder := filepath.Join(parent, fileName(name))
	err := os.RemoveAll(folder)
	if err == nil {
		// Not MkdirAll: a process that starts late would make a run folder anew that somebody has moved away meanwhile.
		if err = os.Mkdir(parent, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			err = os.Mkdir(folder, 0o700)
		}
	}
	if err != nil {
		return "", plugins.Errorf(plugins.Exhausted, "no scratch folder for %s: %w", name, err).WithHint("give a folder that can be written to")
	}
	return folder, nil
}

// Process is one running plugin.
type Process struct {
	s       *Supervisor
	launch  Launch
	leader  *leader
	out     *output
	client  *plugin.Client
	proto   atomic.Pointer[plugin.ClientProtocol] // nil before the handshake; a run that ends may stop a process that still starts
	conn    *grpc.ClientConn
	arena   *arena.Arena
	pulse   *pulse
	stop    sync.Once
	cleanup sync.Once
	gone    chan struct{} // closed when everything of the process is released
	world   *world        // of which it is a rank; nil: it is alone
	rank    int
	lost    atomic.Pointer[Process] // the one for whose sake this one was ended
}

// Start runs a plugin and shakes hands with it. The error says what happened: it printed on stdout, speaks another protocol version, died (with its last
// words), or hung.
func (s *Supervisor) Start(ctx context.Context, launch Launch) (*Process, error) {
	return s.start(ctx, launch, nil, 0)
}

func (s *Supervisor) start(ctx context.Context, launch Launch, w *world, rank int) (*Process, error) {
	p := &Process{s: s, launch: launch, gone: make(chan struct{}), world: w, rank: rank}
	err := p.start(ctx)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Process) start(ctx context.Context) error {
	s, began := p.s, time.Now()
	label := p.launch.Label()
	fail := func(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
		return plugins.Errorf(kind, format, args...).WithPlace("%s", label)
	}
	if len(p.launch.Argv) == 0 {
		return fail(plugins.Invalid, "no command to run")
	}
	name := fmt.Sprintf("%s-%s", p.launch.Kind, fileName(p.launch.Name))
	if p.launch.Instance != "" {
		name += "-" + fileName(p.launch.Instance)
	}
	p.out = newOutput(filepath.Join(s.o.LogDir, name+".log"))

	certificate, pem, err := newCertificate()
	if err != nil {
		return fail(plugins.Internal, "making a certificate: %w", err)
	}
	own := map[string]string{}
	for k, v := range p.launch.Env {
		own[k] = v
	}
	tag := fmt.Sprintf("%s/%d", s.folder.tag, s.count.Add(1))
	own[tagEnv] = tag
	own[plugins.LifelineEnv] = fmt.Sprint(plugins.LifelineFD)
	own["PLUGIN_CLIENT_CERT"] = pem
	if here, err := os.Getwd(); err == nil {
		own[plugins.WorkingFolderEnv] = here
	}
	var inherits []*os.File
	if s.o.ArenaBytes > 0 {
		p.arena, err = arena.New(s.o.ArenaBytes)
		switch {
		case err == nil:
			own[plugins.ArenaEnv] = fmt.Sprint(plugins.ArenaFD)
			inherits = append(inherits, p.arena.File())
		case plugins.KindOf(err) == plugins.Unsupported: // no memory files on this system: tensors travel in the messages
			p.out.line("srpo", "--- "+err.Error())
		default:
			return plugins.AsError(err).WithPlace("%s", label)
		}
	}
	lifelineR, lifelineW, err := os.Pipe()
	if err == nil {
		if p.pulse, err = newPulse(s.o.Silence); err != nil {
			p.pulse = nil
			_, _ = lifelineR.Close(), lifelineW.Close()
		}
	}
	if err != nil {
		p.releaseShared()
		return fail(plugins.Exhausted, "making a pipe: %w", err).WithHint("raise the limit of open files (ulimit -n)")
	}
	own[plugins.HeartbeatEnv] = p.pulse.variable(plugins.LifelineFD + 1 + len(inherits))
	inherits = append(inherits, p.pulse.w)
	cmd := exec.Command(p.launch.Argv[0], p.launch.Argv[1:]...)
	cmd.Dir = p.launch.Dir
	p.leader = newLeader(cmd, tag, p.out, lifelineR, lifelineW, inherits...)
	// The client sets the magic cookie, the protocol versions and the socket folder; the rest of the command is ours.
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugins.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{plugins.Protocol: {}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, _ string) (runner.Runner, error) {
			cmd.Env = append(environ(hostEnviron(), allowedFor(p.launch.Name, s.o.EnvAllow), own), spec.Env...)
			return p.leader, nil
		},
		SkipHostEnv: true,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			MinVersion:   tls.VersionTLS12,
			ServerName:   "localhost",
		},
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: s.folder.path},
		StartTimeout:     s.o.StartTimeout + 10*time.Second, // ours passes first
		SyncStdout:       &lines{to: p.out, source: "out"},
		SyncStderr:       &lines{to: p.out, source: "err"},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  serve.DialOptions(),
	})

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		p.leader.abandon(nil)
		p.releaseShared()
		return fail(plugins.Canceled, "the run is ending")
	}
	s.live[p] = true
	s.mu.Unlock()

	ctx, cancel := context.WithTimeoutCause(ctx, s.o.StartTimeout, errStartTimeout)
	defer cancel()
	type result struct{ err error }
	done := make(chan result, 1)
	go func() { done <- result{p.connect(ctx)} }()
	var failure error
	select {
	case r := <-done:
		failure = r.err
	case <-ctx.Done():
		failure = context.Cause(ctx)
		p.leader.kill()
		<-done // the client's start ends with the process
	}
	p.pulse.started()
	if failure == nil {
		p.pulse.listen(p.leader.exited, func(d time.Duration) { p.leader.killFor(fmt.Sprintf("as it gave no sign of life for %v", d)) })
		s.event(Event{Plugin: label, What: "started", PID: p.PID(), Seconds: time.Since(began).Seconds()})
		go func() {
			<-p.leader.exited
			p.release()
		}()
		return nil
	}
	p.leader.abandon(failure)                                                // does nothing once there was a process
	if errors.Is(failure, errStartTimeout) || !p.exitedWithin(time.Second) { // one that is ending by itself gets to say how
		p.leader.kill()
		p.exitedWithin(2 * time.Second)
	}
	e := p.explainStart(failure)
	p.release()
	return e
}

var errStartTimeout = errors.New("start timeout")

// connect starts the process, shakes hands and makes sure that the plugin answers.
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
	_, err = grpc_health_v1.NewHealthClient(g.Conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName})
	if c := status.Code(err); err != nil && c != codes.Unimplemented && c != codes.NotFound {
		return err
	}
	p.conn = g.Conn
	return nil
}

const (
	// quoted is how much of a line that should not be there an error's sentence shows, quotedDetail how much of each line stands below it, in characters.
	quoted       = 80
	quotedDetail = 400
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

// explainStart says why a start failed.
func (p *Process) explainStart(failure error) *plugins.Error {
	l := p.leader
	label := p.launch.Label()
	words := p.out.last(lastWords)
	fail := func(kind plugins.ErrorKind, format string, args ...any) *plugins.Error {
		return plugins.Errorf(kind, format, args...).WithPlace("%s", label).WithDetail(words)
	}
	if l.startError != nil {
		return fail(plugins.NotFound, "could not be started: %w", l.startError).WithHint("check the command and that the file may be executed: %s", p.launch.Argv[0])
	}
	var line string
	select {
	case line = <-l.firstLine:
	default:
	}
	version, certificate, notHandshake := parseHandshake(line)
	switch {
	case errors.Is(failure, errStartTimeout) && line == "":
		return fail(plugins.Deadline, "did not finish its handshake within %v", p.s.o.StartTimeout).
			WithHint("look into %s; if it only needs longer, raise [host] start_timeout_s", p.out.path)
	case line != "" && notHandshake != nil:
		shown, _ := readable(line)
		words = cutLines(words, quotedDetail)
		return fail(plugins.Corrupt, "printed on stdout before the handshake: %q%s", cutLines(shown, quoted), l.alsoDied()).
			WithHint("print to stderr instead; in Python import srpo_sdk before anything else, in Go call sdk.Serve first in main")
	case line != "" && version != plugins.Protocol:
		hint := "install a version of the plugin for this srpo"
		if version > plugins.Protocol {
			hint = "this plugin is made for a newer srpo: upgrade srpo, or install an older version of the plugin"
		}
		return fail(plugins.Mismatch, "speaks protocol version %d, this srpo speaks %d", version, plugins.Protocol).WithHint("%s", hint)
	case line != "" && !certificate:
		return fail(plugins.Corrupt, "gave no TLS certificate in its handshake").
			WithHint("the plugin must answer PLUGIN_CLIENT_CERT with mutual TLS; both SDKs do")
	case errors.Is(failure, errStartTimeout):
		return fail(plugins.Deadline, "shook hands, but did not answer within %v", p.s.o.StartTimeout).
			WithHint("look into %s; if it only needs longer, raise [host] start_timeout_s", p.out.path)
	case errors.Is(failure, context.Canceled):
		return fail(plugins.Canceled, "its start was cancelled")
	case errors.Is(failure, context.DeadlineExceeded):
		return fail(plugins.Deadline, "did not start in the time that was left")
	case line == "":
		hint := l.advice()
		if l.fate() == "exited with status 0" {
			hint = "does its program reach srpo.serve(...) in Python, sdk.ServeSim or its like in Go? " + hint
		}
		return fail(plugins.Unavailable, "%s before its handshake", l.fate()).WithHint("%s", hint)
	}
	return fail(plugins.Unavailable, "shook hands, but could not be reached: %w%s", failure, l.alsoDied()).
		WithHint("%s", l.advice())
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

// PID is the process's id.
func (p *Process) PID() int {
	p.leader.mu.Lock()
	defer p.leader.mu.Unlock()
	return p.leader.pid
}

// Label names the plugin, e.g. "env libero #2".
func (p *Process) Label() string { return p.launch.Label() }

// Conn is the connection to the plugin; it breaks when the process ends.
func (p *Process) Conn() grpc.ClientConnInterface { return p.conn }

// Arena is the process's shared memory, nil when it has none.
func (p *Process) Arena() *arena.Arena { return p.arena }

// Exited is closed when the process has ended, and its whole group with it.
func (p *Process) Exited() <-chan struct{} { return p.leader.exited }

// ExitReason says in words how the process ended, e.g. "exited with status 3".
func (p *Process) ExitReason() string { return p.leader.fate() }

// LastLines are the last n lines that the plugin printed, at most 40.
func (p *Process) LastLines(n int) string { return p.out.last(n) }

// LogFile has everything that the plugin printed.
func (p *Process) LogFile() string { return p.out.path }

// Kill kills the process group at once and does not wait.
func (p *Process) Kill() { p.leader.kill() }

// Stop asks the plugin to stop, kills its process group when it has not after the grace period, and returns when nobody is left; with rank 0 of a world all of it.
func (p *Process) Stop() {
	var others sync.WaitGroup
	if p.world != nil {
		p.world.stopping.Store(true) // each has its own time to stop: none is ended for another's sake any more
	}
	for _, q := range p.Ranks() {
		if q != p {
			others.Add(1)
			go func() { defer others.Done(); q.Stop() }()
		}
	}
	defer others.Wait()
	p.stop.Do(func() {
		closed := make(chan struct{})
		if proto := p.proto.Load(); proto != nil {
			go func() { _ = (*proto).Close(); close(closed) }() // sends Shutdown; it may hang, and ends with the process
		}
		if !p.exitedWithin(p.s.o.StopGrace) {
			p.leader.kill()
		}
	})
	<-p.leader.exited
	p.release()
}

// release frees what belongs to a process that has ended.
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

// releaseShared closes what the process shared with the host.
func (p *Process) releaseShared() {
	if p.arena != nil {
		_ = p.arena.Close()
	}
	if p.pulse != nil {
		p.pulse.close()
	}
}
