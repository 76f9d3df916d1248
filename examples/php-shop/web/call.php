<?php
// SPDX-License-Identifier: Apache-2.0
//
// Calls any HTTP address and shows the answer whole: for trying things in the lab. It fetches what
// it is told to, so it refuses callers from anywhere but the lab's own network and this machine.
//
//   ?url=http://sms/echo&header=user: rui&header=...   (`header[]=` for several)
declare(strict_types=1);

const LAB = ['127.', '10.77.', '::1', 'fd77:'];

function refuse(int $status, string $why): never
{
    http_response_code($status);
    header('Content-Type: application/json');
    exit(json_encode(['error' => $why]) . "\n");
}

$caller = (string) ($_SERVER['REMOTE_ADDR'] ?? '');
if (array_filter(LAB, fn (string $prefix) => str_starts_with($caller, $prefix)) === []) {
    refuse(403, 'only for callers in the lab');
}
$url = (string) ($_GET['url'] ?? '');
if (preg_match('#^https?://#', $url) !== 1) {
    refuse(400, 'url has to begin with http:// or https://');
}

$headers = [];
$handle = curl_init($url);
curl_setopt_array($handle, [
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_HTTPHEADER => preg_grep('/^[\x20-\x7e]+$/', (array) ($_GET['header'] ?? [])),
    CURLOPT_CUSTOMREQUEST => $_SERVER['REQUEST_METHOD'],
    CURLOPT_TIMEOUT_MS => 10_000,
    CURLOPT_HEADERFUNCTION => function ($handle, string $line) use (&$headers): int {
        if (str_contains($line, ':')) {
            $headers[] = trim($line);
        }
        return strlen($line);
    },
]);
$sent = file_get_contents('php://input');
if ($sent !== '' && $sent !== false) {
    curl_setopt($handle, CURLOPT_POSTFIELDS, $sent);
}
$body = curl_exec($handle);

header('Content-Type: application/json');
echo json_encode([
    'status' => curl_getinfo($handle, CURLINFO_RESPONSE_CODE),
    'headers' => $headers,
    'body' => is_string($body) ? $body : null,
    'error' => $body === false ? curl_error($handle) : null,
    'ms' => [
        'name' => round(curl_getinfo($handle, CURLINFO_NAMELOOKUP_TIME) * 1000, 3),
        'connect' => round(curl_getinfo($handle, CURLINFO_CONNECT_TIME) * 1000, 3),
        'first_byte' => round(curl_getinfo($handle, CURLINFO_STARTTRANSFER_TIME) * 1000, 3),
        'total' => round(curl_getinfo($handle, CURLINFO_TOTAL_TIME) * 1000, 3),
    ],
    'address' => curl_getinfo($handle, CURLINFO_PRIMARY_IP),
], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
