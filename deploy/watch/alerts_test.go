package watch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// minute is how often it is scraped and evaluated here.
const minute = time.Minute

// healthy is what two relays and two agents say of which all is well, one value a
// minute in the notation of promtool. The pod is the first word: r1 and r2 are relays,
// a1 and a2 agents.
func healthy() map[string]string {
	all := map[string]string{}
	for _, pod := range []string{"r1", "r2"} {
		for series, values := range map[string]string{
			`culvert_relay_nodes`:    "20x1600",
			`culvert_relay_draining`: "0x1600",
			`culvert_relay_streams`:  "100x1600",
			`culvert_relay_refused_total{reason="too-many-handshakes"}`:                   "5x1600",
			`culvert_relay_kube_requests_total{call="tokenreviews",result="ok"}`:          "0+60x1600",
			`culvert_relay_kube_requests_total{call="tokenreviews",result="timeout"}`:     "0x1600",
			`culvert_relay_streams_total{code="ok",door="culvert"}`:                       "0+60x1600",
			`culvert_relay_streams_total{code="not-listening",door="culvert"}`:            "0+60x1600",
			`culvert_relay_streams_total{code="unreachable",door="culvert"}`:              "0x1600",
			`culvert_relay_stream_open_duration_seconds_bucket{door="culvert",le="0.5"}`:  "0+60x1600",
			`culvert_relay_stream_open_duration_seconds_bucket{door="culvert",le="5"}`:    "0+60x1600",
			`culvert_relay_stream_open_duration_seconds_bucket{door="culvert",le="+Inf"}`: "0+60x1600",
			`culvert_relay_stream_open_duration_seconds_count{door="culvert"}`:            "0+60x1600",
			`culvert_relay_limit_refusals_total{limit="user-opens"}`:                      "7x1600",
			`culvert_relay_certificate_expiry_timestamp_seconds`:                          "17280000x1600", // 200 days
			`culvert_relay_policy_broken`:                                                 "0x1600",
			`culvert_relay_audit_failing`:                                                 "0x1600",
			`culvert_relay_audit_dropped_total{reason="queue-full"}`:                      "3x1600",
			`culvert_relay_audit_dropped_total{reason="too-many-stream-refused"}`:         "0+9x1600",
			`culvert_relay_tunnel_window_bytes`:                                           "1000000x1600",
			`culvert_relay_tunnel_window_limit_bytes`:                                     "268435456x1600",
			`culvert_relay_tunnel_unread_cuts_total`:                                      "12x1600",
			`culvert_relay_tunnel_credit_waiting`:                                         "3x1600",
		} {
			all[pod+" "+series] = values
		}
	}
	for _, pod := range []string{"a1", "a2"} {
		for series, values := range map[string]string{
			`culvert_agent_tunnels`:                              "2x1600",
			`culvert_agent_draining`:                             "0x1600",
			`culvert_agent_relays_missing`:                       "0x1600",
			`culvert_agent_relay_addresses`:                      "2x1600",
			`culvert_agent_tunnels_opened_total`:                 "2x60 4x1540", // relays were replaced
			`culvert_agent_pods_ready`:                           "1x1600",
			`culvert_agent_renewals_total{result="ok"}`:          "0+0.1x1600",
			`culvert_agent_renewals_total{result="failed"}`:      "1x1600",
			`culvert_agent_certificate_expiry_timestamp_seconds`: "0x1600", // it shows a token
			`culvert_agent_tunnel_window_bytes`:                  "1000000x1600",
			`culvert_agent_tunnel_window_limit_bytes`:            "268435456x1600",
			`culvert_agent_tunnel_unread_cuts_total`:             "0x1600",
			`culvert_agent_tunnel_credit_waiting`:                "0x1600",
		} {
			all[pod+" "+series] = values
		}
	}
	for _, pod := range []string{"r1", "r2", "a1", "a2"} {
		all[pod+` culvert_build_info{version="1"}`] = "1x1600"
		all[pod+" process_open_fds"] = "500x1600"
		all[pod+" process_max_fds"] = "1000x1600"
		all[pod+" process_start_time_seconds"] = "1x50 2x1550"
	}
	all["other process_open_fds"], all["other process_max_fds"] = "999x1600", "1000x1600"
	all["other process_start_time_seconds"] = "0+1x1600"
	return all
}

// series is what Prometheus has of what a pod says.
func series(pod, name string) string {
	said := fmt.Sprintf(`namespace="culvert-system",pod=%q,instance="%s:7480"`, pod, pod)
	switch pod[0] {
	case 'a':
		said = fmt.Sprintf(`namespace="culvert-agent",pod=%q,node="node-%s",instance="%s:7481"`, pod, pod, pod)
	case 'o':
		said = `namespace="other",pod="other",instance="other:1"`
	}
	name, own, _ := strings.Cut(name, "{")
	if own != "" {
		said = strings.TrimSuffix(own, "}") + "," + said
	}
	return name + "{" + said + "}"
}

// fault is what differs from health, and what fires of it, and nothing else.
type fault struct {
	at     time.Duration // 0: 2 h
	change map[string]string
	fires  []string
}

// gone is the value of a series that there is not.
const gone = ""

func faults() map[string]fault {
	return map[string]fault{
		"nothing":       {},
		"a day of that": {at: 26 * time.Hour},

		"no relay answers": {change: map[string]string{"r1 *": gone, "r2 *": gone}, fires: []string{"CulvertRelaysDown"}},
		"one relay":        {change: map[string]string{"r2 *": gone}, fires: []string{"CulvertRelayAlone"}},
		"a relay restarts": {at: 10 * minute, change: map[string]string{"r2 culvert_relay_nodes": "20x3 _x5 20x100"}},
		"a flood of strangers": {
			change: map[string]string{`r1 culvert_relay_refused_total{reason="too-many-handshakes"}`: "0+120x1600"},
			fires:  []string{"CulvertRelayDoorCrowded"},
		},
		"a crash loop": {change: map[string]string{"r1 process_start_time_seconds": "0+1x1600"}, fires: []string{"CulvertRestarts"}},
		"the API server is slow": {
			change: map[string]string{`r1 culvert_relay_kube_requests_total{call="tokenreviews",result="timeout"}`: "0+60x1600"},
			fires:  []string{"CulvertAPIServerFails"},
		},

		"no nodes": {
			change: map[string]string{"r1 culvert_relay_nodes": "20x100 0x1500", "r2 culvert_relay_nodes": "20x100 0x1500"},
			fires:  []string{"CulvertNodesLost", "CulvertRelayWithoutNodes"},
		},
		"a relay goes away": {change: map[string]string{"r1 culvert_relay_nodes": "20x100 0x1500", "r1 culvert_relay_draining": "0x100 1x1500"}},
		"some nodes lost": {
			change: map[string]string{"r1 culvert_relay_nodes": "20x100 17x1500", "r2 culvert_relay_nodes": "20x100 17x1500"},
			fires:  []string{"CulvertNodesLost"},
		},
		"no tunnel":       {change: map[string]string{"a1 culvert_agent_tunnels": "2x100 0x1500"}, fires: []string{"CulvertAgentDisconnected"}},
		"a short while":   {change: map[string]string{"a1 culvert_agent_tunnels": "2x116 0x1500"}},
		"an agent leaves": {change: map[string]string{"a1 culvert_agent_tunnels": "2x100 0x1500", "a1 culvert_agent_draining": "0x100 1x1500"}},
		"a relay is not met": {
			change: map[string]string{"a1 culvert_agent_tunnels": "1x1600", "a1 culvert_agent_relays_missing": "1x1600"},
			fires:  []string{"CulvertAgentMissesRelay"},
		},
		"tunnels come and go": {change: map[string]string{"a1 culvert_agent_tunnels_opened_total": "0+1x1600"}, fires: []string{"CulvertAgentFlaps"}},
		"containerd is away":  {change: map[string]string{"a1 culvert_agent_pods_ready": "1x60 0x1600"}, fires: []string{"CulvertAgentPodsUnknown"}},

		"one in ten fails": {
			change: map[string]string{`r1 culvert_relay_streams_total{code="unreachable",door="culvert"}`: "0+30x1600"},
			fires:  []string{"CulvertOpensFail"},
		},
		"one in a hundred fails": {change: map[string]string{`r1 culvert_relay_streams_total{code="unreachable",door="culvert"}`: "0+3x1600"}},
		"slow": {
			change: map[string]string{
				`r1 culvert_relay_stream_open_duration_seconds_bucket{door="culvert",le="0.5"}`: "0+50x1600",
				`r2 culvert_relay_stream_open_duration_seconds_bucket{door="culvert",le="0.5"}`: "0+50x1600",
			},
			fires: []string{"CulvertOpensSlow"},
		},
		"a script gone mad": {change: map[string]string{`r1 culvert_relay_limit_refusals_total{limit="user-opens"}`: "0+9x1600"}, fires: []string{"CulvertLimitRefuses"}},

		"a relay goes and cuts": {
			change: map[string]string{"r1 culvert_relay_streams": "100x100 7x14 stale", "r1 culvert_relay_draining": "0x100 1x14 stale"},
			fires:  []string{"CulvertDrainCuts"},
		},
		"a relay drains still": {change: map[string]string{"r1 culvert_relay_streams": "100x100 7x1500", "r1 culvert_relay_draining": "0x100 1x1500"}},
		"a relay has drained":  {change: map[string]string{"r1 culvert_relay_streams": "100x100 7x10 0x3 stale", "r1 culvert_relay_draining": "0x100 1x14 stale"}},
		"long ago":             {at: 3 * time.Hour, change: map[string]string{"r1 culvert_relay_streams": "100x100 7x14 stale", "r1 culvert_relay_draining": "0x100 1x14 stale"}},

		"a certificate in its last weeks": {
			change: map[string]string{"r1 culvert_relay_certificate_expiry_timestamp_seconds": "864000x1600"},
			fires:  []string{"CulvertRelayCertificateNearItsEnd"},
		},
		"a certificate in its last hours": {
			change: map[string]string{"r1 culvert_relay_certificate_expiry_timestamp_seconds": "10000x1600"},
			fires:  []string{"CulvertRelayCertificateEnds", "CulvertRelayCertificateNearItsEnd"},
		},
		"no certificate yet": {change: map[string]string{"r1 culvert_relay_certificate_expiry_timestamp_seconds": "0x1600"}},
		"an agent's certificate": {
			change: map[string]string{"a1 culvert_agent_certificate_expiry_timestamp_seconds": "500000x1600"},
			fires:  []string{"CulvertAgentCertificateEnds"},
		},
		"no renewal": {
			at:     4 * time.Hour,
			change: map[string]string{`a1 culvert_agent_renewals_total{result="failed"}`: "0+1x1600", `a1 culvert_agent_renewals_total{result="ok"}`: "3x1600"},
			fires:  []string{"CulvertAgentCredentialNotRenewed"},
		},
		"a renewal in the end": {at: 4 * time.Hour, change: map[string]string{`a1 culvert_agent_renewals_total{result="failed"}`: "0+1x1600"}},
		"a typing error":       {change: map[string]string{"r1 culvert_relay_policy_broken": "0x60 1x1600"}, fires: []string{"CulvertPolicyBroken"}},
		"the disk is full": {
			change: map[string]string{"r1 culvert_relay_audit_failing": "0x60 1x1600", `r1 culvert_relay_audit_dropped_total{reason="queue-full"}`: "0x110 0+1x1500"},
			fires:  []string{"CulvertAuditFails", "CulvertAuditRecordsLost"},
		},

		"long fat paths":         {change: map[string]string{"r1 culvert_relay_tunnel_window_bytes": "250000000x1600"}, fires: []string{"CulvertWindowsNearTheirCeiling"}},
		"of an agent":            {change: map[string]string{"a2 culvert_agent_tunnel_window_bytes": "250000000x1600"}, fires: []string{"CulvertWindowsNearTheirCeiling"}},
		"memory of a relay":      {change: map[string]string{"r1 culvert_relay_tunnel_unread_cuts_total": "12x115 30x1500"}, fires: []string{"CulvertUnreadCuts"}},
		"memory of an agent":     {change: map[string]string{"a1 culvert_agent_tunnel_unread_cuts_total": "0x115 3x1500"}, fires: []string{"CulvertUnreadCuts"}},
		"nobody reads":           {change: map[string]string{"r1 culvert_relay_tunnel_credit_waiting": "60x1600"}, fires: []string{"CulvertWritersWait"}},
		"descriptors":            {change: map[string]string{"a1 process_open_fds": "900x1600"}, fires: []string{"CulvertDescriptorsNearTheirEnd"}},
		"an upgrade goes on":     {change: map[string]string{`a1 culvert_build_info{version="1"}`: gone, `a1 culvert_build_info{version="2"}`: "1x1600"}},
		"an upgrade has stopped": {at: 26 * time.Hour, change: map[string]string{`a1 culvert_build_info{version="1"}`: gone, `a1 culvert_build_info{version="2"}`: "1x1600"}, fires: []string{"CulvertVersionsDiffer"}},
	}
}

// Every fault fires its alerts and no others, as Prometheus sees it, and every alert
// has its fault.
func TestAlerts(t *testing.T) {
	fired := map[string]bool{}
	for name, f := range faults() {
		t.Run(name, func(t *testing.T) {
			got := firing(t, f)
			if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, f.fires) {
				t.Errorf("%q fire, want %q", names, f.fires)
			}
			// A label that there is not would leave a gap.
			gap := regexp.MustCompile(`  | [.:,)]|\( ?\)|<no value>|%!|error`)
			for alert, texts := range got {
				fired[alert] = true
				for _, text := range texts {
					if gap.MatchString(text) {
						t.Errorf("%s says %q", alert, text)
					}
				}
			}
		})
	}
	for _, r := range alerts(t) {
		if !fired[r.Alert] {
			t.Errorf("%s fires at no fault", r.Alert)
		}
	}
}

// firing returns what fires in the end, with what each says.
func firing(t *testing.T, f fault) map[string][]string {
	t.Helper()
	all := healthy()
	for key, values := range f.change {
		pod, every := strings.CutSuffix(key, "*")
		maps.DeleteFunc(all, func(k, _ string) bool { return k == key || every && strings.HasPrefix(k, pod) })
		if values != gone {
			all[key] = values
		}
	}
	load := "load 1m\n"
	for key, values := range all {
		pod, name, _ := strings.Cut(key, " ")
		load += "  " + series(pod, name) + " " + values + "\n"
	}
	suite, err := promqltest.NewLazyLoader(load, promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	if err != nil {
		t.Fatal(err)
	}
	defer suite.Close()
	groups, errs := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(suite.QueryEngine(), suite.Storage()), Appendable: suite.Storage(), Context: context.Background(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, Logger: slog.New(slog.DiscardHandler),
	}).LoadGroups(minute, labels.EmptyLabels(), "", nil, false, rulesFile)
	if errs != nil {
		t.Fatal(errs)
	}
	at := f.at
	if at == 0 {
		at = 2 * time.Hour
	}
	out := map[string][]string{}
	for now := time.Unix(0, 0).UTC(); !now.After(time.Unix(0, 0).Add(at)); now = now.Add(minute) {
		suite.WithSamplesTill(now, func(err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range groups {
				g.Eval(suite.Context(), now)
			}
		})
	}
	for _, g := range groups {
		for _, r := range g.AlertingRules() {
			if err := r.LastError(); err != nil {
				t.Errorf("%s: %v", r.Name(), err)
			}
			for _, a := range r.ActiveAlerts() {
				if a.State == rules.StateFiring {
					out[r.Name()] = append(out[r.Name()], a.Annotations.Get("summary"), a.Annotations.Get("description"))
				}
			}
		}
	}
	return out
}
