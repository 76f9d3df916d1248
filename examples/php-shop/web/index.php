<?php
// SPDX-License-Identifier: Apache-2.0
//
// The shop's page: asks every service by its plain name and says who answered, how, and how long it
// took. It knows of no mesh: names are resolved and connections made as by any PHP program, anew for
// each request.
//
//   ?only=sms,message   ask only these
//   ?user=rui           send the header `user: rui` (a header of the page's own request is passed on)
//   ?method=POST        use another method
declare(strict_types=1);

const SERVICES = [
    'sms' => 'http://sms/send?to=1',
    'message' => 'http://message/inbox',
    'search' => 'http://search/find?q=fish',
    'front' => 'http://front/search?q=fish',
];
const TIMEOUT_MS = 5000;

function wanted(): array
{
    $only = array_filter(explode(',', (string) ($_GET['only'] ?? '')));
    return $only === [] ? SERVICES : array_intersect_key(SERVICES, array_flip($only));
}

/** Header lines that belong to the whole page and so go on to every service. */
function passed_on(): array
{
    $lines = [];
    foreach (['user', 'x-request-id', 'traceparent', 'tracestate', 'b3'] as $name) {
        $value = $_SERVER['HTTP_' . strtoupper(strtr($name, '-', '_'))] ?? null;
        if ($name === 'user' && isset($_GET['user'])) {
            $value = $_GET['user'];
        }
        if (is_string($value) && preg_match('/^[\x20-\x7e]{1,256}$/', $value) === 1) {
            $lines[] = "$name: $value";
        }
    }
    return $lines;
}

function call(string $service, string $url): array
{
    $handle = curl_init($url);
    curl_setopt_array($handle, [
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HTTPHEADER => passed_on(),
        CURLOPT_CUSTOMREQUEST => ($_GET['method'] ?? '') === 'POST' ? 'POST' : 'GET',
        CURLOPT_TIMEOUT_MS => TIMEOUT_MS,
    ]);
    $body = curl_exec($handle);
    $answer = is_string($body) ? json_decode($body, true) : null;
    $result = [
        'service' => $service,
        'status' => curl_getinfo($handle, CURLINFO_RESPONSE_CODE),
        'version' => $answer['version'] ?? null,
        'instance' => $answer['instance'] ?? null,
        'ms' => round(curl_getinfo($handle, CURLINFO_TOTAL_TIME) * 1000, 3),
        'error' => $body === false ? curl_error($handle) : null,
    ];
    if ($service === 'front') {
        $result['found'] = $answer['found'] ?? null;
        $result['grpc_status'] = $answer['grpc_status'] ?? null;
    }
    curl_close($handle);
    return $result;
}

$began = hrtime(true);
$calls = [];
foreach (wanted() as $service => $url) {
    $calls[] = call($service, $url);
}
$failed = array_filter($calls, fn (array $call) => $call['status'] < 200 || $call['status'] > 299);

http_response_code($failed === [] ? 200 : 502);
header('Content-Type: application/json');
echo json_encode([
    'ok' => $failed === [],
    'ms' => round((hrtime(true) - $began) / 1e6, 3),
    'calls' => $calls,
], JSON_UNESCAPED_SLASHES), "\n";
